"""Damaged and malicious bundles are refused by name, quickly, and write nothing outside."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import yaml
from fuzzing import ROUNDS, Target, changed_tree, damaged, fuzz, judge

from refocusd.config import EngineOptions
from refocusd.engines.runtimes.openvino import OpenVinoEngine
from refocusd.errors import BundleError, EngineError
from refocusd.models.bundle import load_bundle
from refocusd.models.description import MAX_RDF_BYTES

#: Words of YAML that PyYAML's constructors act on.
YAML_WORDS = [
    *(b"!!int ''", b"!!float ''", b"!!bool maybe", b"!!timestamp soon", b"!!binary '='"),
    *(b"!!python/object/apply:os.system ['true']", b"!!set {a}", b"!!omap [a]", b"!!pairs [[a]]"),
    *(b"&a ", b"*a", b"<<: *a\n", b"<<: [*a, *a]\n", b"? ", b"- - - ", b"%YAML 9.9\n", b"---\n"),
    *(
        b"1:60:60:60",
        b"0b",
        b"0x",
        b".nan",
        b"2001-99-99",
        b"2001-01-01 00:00:00 +99:99",
        b"=",
        b"~",
    ),
    *(
        b"'\\0'",
        b'"\\0"',
        b'"\\ud800"',
        b"[[[[[[[[[",
        b"{{{{{{{{{",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\t",
    ),
    *(b"../", b"/etc/passwd", b"..\\", b"C:", b"con", b"model.onnx/."),
]
SIDE = 32


# -- good bundles ------------------------------------------------------------------------


CAREFUL = EngineOptions(precision="f32", threads=1)


@cache
def tiny_onnx() -> bytes:
    """A network of two convolutions and an addition, as ONNX."""
    onnx = pytest.importorskip("onnx", reason="networks are made with the `train` extra's onnx")
    helper, f32 = onnx.helper, onnx.TensorProto.FLOAT
    rng = np.random.default_rng(0)
    weights = [
        helper.make_tensor(name, f32, shape, (0.1 * rng.standard_normal(shape)).ravel())
        for name, shape in (("w0", (4, 1, 3, 3)), ("b0", (4,)), ("w1", (1, 4, 3, 3)), ("b1", (1,)))
    ]
    nodes = [
        helper.make_node("Conv", ["raw", "w0", "b0"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1", "b1"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["raw", "c"], ["refocused"]),
    ]
    shape = [1, 1, "height", "width"]
    ends = [helper.make_tensor_value_info(name, f32, shape) for name in ("raw", "refocused")]
    graph = helper.make_graph(nodes, "tiny", ends[:1], ends[1:], weights)
    opset = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=9)
    data: bytes = model.SerializeToString()
    return data


def description(files: dict[str, str]) -> dict[str, Any]:
    """The parts of a bundle's description that refocusd reads, and some that it does not."""
    return {
        "format_version": "0.5.4",
        "name": "tiny",
        "authors": [{"name": "nobody"}],
        "config": {
            "refocusd": {
                "schema": 1,
                "id": "tiny",
                "normalisation": {"low_percentile": 1.0, "high_percentile": 99.9},
                "size_multiple": 32,
                "receptive_field_px": 8,
                "files": files,
                "variants": {},
                "network": {"name": "tiny", "widths": [4, 1]},
                "channels": ["DAPI"],
                "tolerance": {"f32": 0.001},
            }
        },
    }


def write_bundle(folder: Path, files: dict[str, bytes], rdf: bytes = b"") -> Path:
    """Write a bundle of these files; its description matches them unless it is given."""
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    (folder / "rdf.yaml").write_bytes(rdf or yaml.safe_dump(description(sums)).encode())
    return folder


# -- targets -----------------------------------------------------------------------------


def _rdf_target(folder: Path) -> Target:
    """The description's bytes: bits, cuts, words of YAML."""
    bundle = write_bundle(folder / "bytes", {"model.onnx": b"network"})
    content = (bundle / "rdf.yaml").read_bytes()
    # Most of the damage is done to the part that is read.
    weak = range(content.index(b"config:"), content.index(b"config:") + 500)
    mutate = partial(_damaged_yaml, weak)
    return Target("bundle description", [content], mutate, partial(_load, bundle))


def _damaged_yaml(weak: range, content: bytes, rng: Random) -> bytes:
    return damaged(content, rng, weak=weak, tokens=YAML_WORDS)


def _fields_target(folder: Path) -> Target:
    """The description's fields: other types, other sizes, other names."""
    bundle = write_bundle(folder / "fields", {"model.onnx": b"network"})
    content = (bundle / "rdf.yaml").read_bytes()

    good = yaml.safe_load(content)

    def mutate(_: bytes, rng: Random) -> bytes:
        rdf = good
        if rng.random() < 0.2:
            rdf = changed_tree(good, rng)
        else:
            part = changed_tree(good["config"]["refocusd"], rng)
            rdf = {"config": {"refocusd": part}}
        # JSON is valid YAML, and is written a hundred times as fast.
        return json.dumps(rdf).replace("NaN", ".nan").replace("Infinity", ".inf").encode()

    return Target("bundle fields", [content], mutate, partial(_load, bundle))


def _load(bundle: Path, data: bytes) -> str:
    (bundle / "rdf.yaml").write_bytes(data)
    loaded = load_bundle(bundle)
    assert loaded.onnx.parent == bundle
    assert loaded.size_multiple >= 1
    assert 0 <= loaded.low_percentile < loaded.high_percentile <= 100
    return "loaded"


def _altered_target(folder: Path) -> Target:
    """A network other than the one the bundle was made with is never accepted."""
    bundle = write_bundle(folder / "altered", {"model.onnx": tiny_onnx()})

    def feed(data: bytes) -> str:
        (bundle / "model.onnx").write_bytes(data)
        load_bundle(bundle)
        assert data == tiny_onnx()
        return "unchanged"

    return Target("altered network", [tiny_onnx()], damaged, feed)


def _network_target(folder: Path) -> Target:
    """A damaged network with a correct checksum, in OpenVINO up to a refocused frame."""
    frame = np.random.default_rng(0).integers(100, 4000, (SIDE, SIDE), dtype=np.uint16)
    weak = list(range(120))

    def feed(data: bytes) -> str:
        engine = OpenVinoEngine(load_bundle(write_bundle(bundle, {"model.onnx": data})), CAREFUL)
        out = np.empty_like(frame)
        engine.refocus(frame, out)
        engine.close()
        return "refocused"

    bundle = folder / "network"
    mutate = partial(_damaged_network, weak)
    # Compiling uses the time of more than one thread, whatever the settings.
    return Target("network", [tiny_onnx()], mutate, feed, seconds=5.0)


def _damaged_network(weak: list[int], content: bytes, rng: Random) -> bytes:
    words = [
        b"Conv",
        b"Relu",
        b"Add",
        b"raw",
        b"w0",
        b"Loop",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    ]
    return damaged(content, rng, weak=weak, tokens=[*words, b"\x80\x80\x80\x80\x80\x20"])


#: Every reader of bundles.
TARGETS: dict[str, Callable[[Path], Target]] = {
    "bundle description": _rdf_target,
    "bundle fields": _fields_target,
    "altered network": _altered_target,
    "network": _network_target,
}
#: Native code reads these, in a separate process, which may crash.
NATIVE = ("network",)


@pytest.mark.parametrize("kind", [name for name in TARGETS if name not in NATIVE])
def test_a_damaged_bundle_is_refused_or_is_a_bundle(tmp_path: Path, kind: str) -> None:
    report = fuzz(TARGETS[kind](tmp_path), 4 * ROUNDS)
    assert not report.defects, report.defects[0].data[:500]
    # Both must happen, or the mutations miss their aim.
    assert 0 < report.outcomes["BundleError"] < report.inputs


CHILD = """
import sys
from pathlib import Path
from fuzzing import fuzz
from test_bundle_fuzz import TARGETS
report = fuzz(TARGETS[sys.argv[1]](Path(sys.argv[2])), int(sys.argv[3]), before=print)
print(*report.defects, sep="\\n", file=sys.stderr)
print(dict(report.outcomes))
sys.exit(1 if report.defects else 0)
"""


def test_a_damaged_network_with_the_right_sum_is_refused_or_runs(tmp_path: Path) -> None:
    """It runs in a separate process, like a worker, because native code reads the network."""
    command = [sys.executable, "-X", "faulthandler", "-c", CHILD, "network", str(tmp_path)]
    done = subprocess.run(
        [*command, str(max(12, ROUNDS // 5))],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "EngineError" in done.stdout.splitlines()[-1]


def _merge_bomb() -> bytes:
    rows = [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}" for n in range(1, 8)]
    return "\n".join(["a0: &a0 {k: v}", *rows]).encode()


def _alias_bomb(end: str) -> bytes:
    rows = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return "\n".join(["a0: &a0 [x]", *rows, f"config: {{refocusd: {end}}}"]).encode()


#: Descriptions of disproportionate cost, each just within the size limit.
BOMBS: dict[str, Callable[[], bytes]] = {
    "alias bomb by merge keys": _merge_bomb,
    "alias bomb of lists": lambda: _alias_bomb("{files: *a8}"),
    "alias bomb as the part read": lambda: _alias_bomb("*a8"),
    "description within itself": lambda: b"config: &a\n  refocusd: *a\n",
    "sexagesimal number": lambda: b"a: " + b"1:" * 150_000 + b"1",
    "long list": lambda: b"a: [" + b"1," * (MAX_RDF_BYTES // 4) + b"]",
    "long hexadecimal": lambda: b"a: 0x" + b"f" * (MAX_RDF_BYTES - 5),
    "deep list": lambda: b"[" * (MAX_RDF_BYTES // 4),
    "too large": lambda: b"#" * (MAX_RDF_BYTES + 1),
    "long number": lambda: (
        b"config: {refocusd: {schema: 1, id: a, normalisation: {}, size_multiple: 1, "
        b"receptive_field_px: 0, files: {model.onnx: "
        + b"0" * 64
        + b"}, network: {a: !!int '"
        + b"9" * 400
        + b"'}}}"
    ),
    "empty number": lambda: b"a: !!int ''",
    "no such truth": lambda: b"a: !!bool maybe",
    "code": lambda: b"a: !!python/object/apply:os.system ['true']",
}


@pytest.mark.parametrize("kind", list(BOMBS))
def test_a_description_made_to_harm_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    bundle = write_bundle(tmp_path / "bomb", {"model.onnx": b"network"})
    # Memory is not traced, because tracing slows PyYAML down twenty times.
    target = Target(kind, [b""], damaged, partial(_load, bundle))
    outcome, what, _, _ = judge(target, BOMBS[kind]())
    assert outcome == "BundleError", what


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "a/b",
        ".",
        "..",
        "",
        "C:\\x\\..\\y/z",
        "x" * 5000,
        "model.onnx/.",
    ],
)
def test_no_file_outside_the_bundle_is_touched(tmp_path: Path, name: str) -> None:
    """The checksum is right, so only the name can be the reason."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    sums = {n: hashlib.sha256(c).hexdigest() for n, c in (("model.onnx", b"n"), (name, b"secret"))}
    rdf = yaml.safe_dump(description(sums)).encode()
    bundle = write_bundle(tmp_path / "bundle", {"model.onnx": b"n"}, rdf)
    with pytest.raises(BundleError):
        load_bundle(bundle)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows would write the 1 TiB")
def test_a_file_that_claims_to_be_huge_is_not_read(tmp_path: Path) -> None:
    """A sparse file of 1 TiB takes no room on disk, but hashing it would take an hour."""
    bundle = write_bundle(tmp_path / "bundle", {"model.onnx": b"n"})
    try:
        os.truncate(bundle / "model.onnx", 1 << 40)
    except OSError as error:
        pytest.skip(f"no file of 1 TiB can be made here: {error}")
    begun = time.monotonic()
    with pytest.raises(BundleError, match="larger than"):
        load_bundle(bundle)
    assert time.monotonic() - begun < 5


@pytest.mark.skipif(sys.platform == "win32", reason="pipes and devices in folders are POSIX")
@pytest.mark.parametrize("what", ["a device", "a pipe"])
def test_what_is_no_ordinary_file_is_refused(tmp_path: Path, what: str) -> None:
    """An archive of a bundle may contain links and pipes."""
    bundle = write_bundle(tmp_path / "bundle", {"model.onnx": b"n"})
    if what == "a device":
        (bundle / "rdf.yaml").unlink()
        (bundle / "rdf.yaml").symlink_to("/dev/zero")
    else:
        (bundle / "model.onnx").unlink()
        os.mkfifo(bundle / "model.onnx")
    script = (
        "import resource, sys\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))\n"
        "from refocusd.models.bundle import load_bundle\n"
        "from refocusd.errors import BundleError\n"
        "try:\n    load_bundle(sys.argv[1])\n"
        "except BundleError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(bundle)], capture_output=True, timeout=5, check=True
    )
    assert str(bundle) in done.stdout.decode()


def _network_with_weights_in(location: str) -> bytes:
    """A network whose last weights are in a separate file."""
    onnx = pytest.importorskip("onnx", reason="networks are made with the `train` extra's onnx")
    model = onnx.load_from_string(tiny_onnx())
    tensor = next(t for t in model.graph.initializer if t.name == "w1")
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "144")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    data: bytes = model.SerializeToString()
    return data


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "{absolute}",
        "beside.bin",
    ],
)
def test_a_network_takes_no_weights_but_its_bundles(tmp_path: Path, location: str) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(np.ones(36, np.float32).tobytes())
    network = _network_with_weights_in(location.format(absolute=secret))
    bundle = write_bundle(tmp_path / "bundle", {"model.onnx": network})
    (bundle / "beside.bin").write_bytes(secret.read_bytes())
    with pytest.raises((BundleError, EngineError)):
        OpenVinoEngine(load_bundle(bundle), CAREFUL)
