"""BBBC006: planes are fetched from a server that breaks off, unpacked safely, paired by well."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from refocusd_training.commands import register
from refocusd_training.data.archive import extract_plane
from refocusd_training.data.bbbc006 import open_plate, plane_defocus_um, read_plane
from refocusd_training.data.config import DataConfig
from refocusd_training.data.fetch_bbbc006 import MANIFEST, fetch_bbbc006
from refocusd_training.data.sides import side_of, sides_of
from refocusd_training.data.source import open_samples

from refocusd.errors import ConfigError, DiskFullError, InputError

SHAPE = (80, 96)
WELLS = ("a01", "a02", "b07", "c11", "d20", "p24")


def field(well: str, channel: int, plane: int) -> NDArray[np.uint16]:
    """Give pixels that encode well, channel and plane."""
    rng = np.random.default_rng([ord(well[0]), int(well[1:]), channel])
    light = rng.integers(100, 1000, SHAPE, dtype=np.uint16)
    return light + np.uint16(plane)


def name_of(well: str, channel: int, plane: int) -> str:
    digest = hashlib.sha256(f"{well}{channel}{plane}".encode()).hexdigest()
    uuid = "-".join(digest[a:b] for a, b in ((0, 8), (8, 12), (12, 16), (16, 20), (20, 32)))
    return f"mcf-z-stacks-03212011_{well}_s1_w{channel}{uuid}.tif"


def write_plane(folder: Path, plane: int, wells: tuple[str, ...] = WELLS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for well in wells:
        for channel in (1, 2):
            tifffile.imwrite(folder / name_of(well, channel, plane), field(well, channel, plane))


def folder_of(plane: int) -> str:
    return f"BBBC006_v1_images_z_{plane:02d}"


@pytest.fixture
def plate(tmp_path: Path) -> Path:
    """Give a plate in the layout of the unpacked archives."""
    for plane in (1, 5, 16, 32):
        write_plane(tmp_path / "plate" / folder_of(plane), plane)
    return tmp_path / "plate"


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    """Give archives with the published names and folders."""
    folder = tmp_path / "archives"
    folder.mkdir()
    for plane in (5, 16):
        write_plane(tmp_path / "unpacked" / folder_of(plane), plane)
        with zipfile.ZipFile(folder / f"{folder_of(plane)}.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted((tmp_path / "unpacked" / folder_of(plane)).iterdir()):
                file.write(path, f"{folder_of(plane)}/{path.name}")
            file.writestr("../../evil.tif", b"x")
            file.writestr("__MACOSX/._" + name_of("a01", 1, plane), b"x")
    return folder


class Server:
    """What the handler serves, and the requests that it got."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.break_after: int | None = None
        self.ranges: list[str | None] = []
        self.without_ranges = False


@contextmanager
def serving(folder: Path) -> Iterator[tuple[str, Server]]:
    """Serve a folder over HTTP with ranges; the server can break off once in the middle."""
    state = Server(folder)

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            state.ranges.append(self.headers.get("Range"))
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            path = state.folder / Path(self.path).name
            if not path.exists():
                self.send_error(404)
                return
            content = path.read_bytes()
            etag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
            start = 0
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
            same = self.headers.get("If-Range") in (None, etag)
            if wanted and same and not state.without_ranges:
                start = int(wanted[1])
                self.send_response(206)
                end = len(content) - 1
                self.send_header("Content-Range", f"bytes {start}-{end}/{len(content)}")
            else:
                self.send_response(200)
            self.send_header("ETag", etag)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if body:
                stop = len(content)
                if state.break_after is not None:
                    stop, state.break_after = start + state.break_after, None
                self.wfile.write(content[start:stop])
                self.close_connection = True

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/bbbc/BBBC006", state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_planes_are_fetched_unpacked_and_on_a_second_run_only_checked(
    archives: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with serving(archives) as (url, server):
        report = fetch_bbbc006([5, 16], output, url=url, reserve_bytes=0)
        assert report.fetched == [5, 16]
        asked = len(server.ranges)
        again = fetch_bbbc006([16, 5], output, url=url, reserve_bytes=0)
        assert (again.fetched, again.verified) == ([], [5, 16])
        assert len(server.ranges) == asked
    digest = hashlib.sha256((archives / f"{folder_of(5)}.zip").read_bytes()).hexdigest()
    assert report.sha256[5] == again.sha256[5] == digest
    assert sorted(path.name for path in output.iterdir()) == [
        folder_of(5),
        folder_of(16),
        MANIFEST,
    ]
    assert not list(tmp_path.rglob("evil.tif"))
    name = name_of("b07", 1, 5)
    np.testing.assert_array_equal(read_plane(output / folder_of(5) / name), field("b07", 1, 5))


def test_a_broken_connection_is_resumed_where_it_ended(archives: Path, tmp_path: Path) -> None:
    with serving(archives) as (url, server):
        server.break_after = 20_000
        report = fetch_bbbc006([5], tmp_path / "out", url=url, reserve_bytes=0)
    assert server.ranges == [None, "bytes=20000-"]
    assert report.fetched == [5]


def test_an_interrupted_download_goes_on_in_the_next_run(archives: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    content = (archives / f"{folder_of(5)}.zip").read_bytes()
    part = output / f"{folder_of(5)}.zip.part"
    etag = f'"{hashlib.sha256(content).hexdigest()[:8]}"'
    part.write_bytes(content[:30_000])
    part.with_name(f"{part.name}.json").write_text(json.dumps([etag, None, len(content)]))
    with serving(archives) as (url, server):
        fetch_bbbc006([5], output, url=url, reserve_bytes=0)
        assert server.ranges == ["bytes=30000-"]


@pytest.mark.parametrize("without_ranges", [False, True])
def test_a_part_of_another_version_is_restarted(
    archives: Path, tmp_path: Path, without_ranges: bool
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    part = output / f"{folder_of(5)}.zip.part"
    part.write_bytes(b"of yesterday" * 100)
    part.with_name(f"{part.name}.json").write_text(json.dumps(['"old"', None, 1 << 20]))
    with serving(archives) as (url, server):
        server.without_ranges = without_ranges
        assert fetch_bbbc006([5], output, url=url, reserve_bytes=0).fetched == [5]


def test_a_damaged_image_is_fetched_again(archives: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    fetch_bbbc006([5, 16], output, archives=archives, reserve_bytes=0)
    damaged = output / folder_of(5) / name_of("b07", 1, 5)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x00")
    (output / folder_of(16) / name_of("b07", 1, 16)).unlink()
    report = fetch_bbbc006([5, 16], output, archives=archives, reserve_bytes=0)
    assert report.fetched == [5, 16]
    np.testing.assert_array_equal(read_plane(damaged), field("b07", 1, 5))
    assert (archives / f"{folder_of(5)}.zip").exists(), "what is somebody's own is not deleted"


def test_an_archive_that_changed_is_refused(archives: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    fetch_bbbc006([5], output, archives=archives, reserve_bytes=0)
    (output / folder_of(5) / name_of("b07", 1, 5)).unlink()
    with zipfile.ZipFile(archives / f"{folder_of(5)}.zip", "a") as file:
        file.writestr("another.txt", b"new")
    with pytest.raises(InputError, match="the first time"):
        fetch_bbbc006([5], output, archives=archives, reserve_bytes=0)


def test_what_cannot_be_fetched_says_what_to_do(archives: Path, tmp_path: Path) -> None:
    with serving(archives) as (url, _):
        with pytest.raises(InputError, match="404"):
            fetch_bbbc006([7], tmp_path / "out", url=url, reserve_bytes=0)
        with pytest.raises(DiskFullError, match="choose another --output"):
            fetch_bbbc006([5], tmp_path / "out", url=url, reserve_bytes=1 << 60)
    with pytest.raises(InputError, match="check the network"):
        fetch_bbbc006([5], tmp_path / "out", url=url, reserve_bytes=0, timeout_s=5)
    with pytest.raises(ConfigError, match="0 to 33"):
        fetch_bbbc006([34], tmp_path / "out")
    with pytest.raises(ConfigError, match="--from"):
        fetch_bbbc006([5], tmp_path / "out", url="file:///etc")
    with pytest.raises(InputError, match="does not exist"):
        fetch_bbbc006([7], tmp_path / "out", archives=archives, reserve_bytes=0)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes to fill a disk with")
def test_a_full_disk_is_reported_and_the_next_run_goes_on(archives: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    code = (
        "import resource, sys; from pathlib import Path; "
        "from refocusd_training.data.fetch_bbbc006 import fetch_bbbc006; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)); "
        "fetch_bbbc006([5], Path(sys.argv[1]), url=sys.argv[2], reserve_bytes=0)"
    )
    with serving(archives) as (url, server):
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        }
        run = subprocess.run(
            [sys.executable, "-c", code, str(output), url],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
        )
        assert "DiskFullError" in run.stderr
        assert "free some space and run the command again" in run.stderr
        report = fetch_bbbc006([5], output, url=url, reserve_bytes=0)
        assert report.fetched == [5]
        assert server.ranges[-1] == "bytes=50000-"


def test_a_truncated_or_foreign_archive_is_refused(archives: Path, tmp_path: Path) -> None:
    whole = archives / f"{folder_of(5)}.zip"
    content = bytearray(whole.read_bytes())
    cut = tmp_path / "cut.zip"
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged"):
        extract_plane(cut, tmp_path / "cut")
    content[2000:2100] = bytes(100)
    cut.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        extract_plane(cut, tmp_path / "cut")
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name_of("a01", 1, 5), bytes(1 << 25))
    with pytest.raises(InputError, match="larger than a BBBC006 field"):
        extract_plane(bomb, tmp_path / "bomb")
    with zipfile.ZipFile(tmp_path / "none.zip", "w") as file:
        file.writestr("readme.txt", b"")
    with pytest.raises(InputError, match="published name"):
        extract_plane(tmp_path / "none.zip", tmp_path / "none")


def test_the_command_unpacks_archives_and_says_their_checksums(
    archives: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers(required=True))
    arguments = parser.parse_args(
        ["train", "fetch-bbbc006", "--planes", "5", "--output", str(tmp_path / "out")]
    )
    assert arguments.planes == [5]
    with serving(archives) as (url, _):
        arguments.url = url + "/"
        assert arguments.command(arguments) == 0
    digest = hashlib.sha256((archives / f"{folder_of(5)}.zip").read_bytes()).hexdigest()
    assert digest in capsys.readouterr().out


def test_fields_are_paired_across_planes_and_split_by_well(plate: Path) -> None:
    found = open_plate(plate, planes=(1, 5), seed=3, validate=0.2, test=0.2)
    assert len(found.fields) == 2 * len(WELLS)
    sides = {f.well: {g.side for g in found.fields if g.well == f.well} for f in found.fields}
    assert all(len(side) == 1 for side in sides.values())
    assert sides["a02"] == {"test"}, "every bundle is evaluated on this field"
    assert {side for found_sides in sides.values() for side in found_sides} == {
        "train",
        "validate",
        "test",
    }
    for pair in found.pairs("train", (1, 5)):
        raw, truth = read_plane(pair.raw[0]).astype(int), read_plane(pair.truth[0]).astype(int)
        plane = 16 - round((truth - raw).mean())
        assert (raw + (16 - plane) == truth).all(), "the same field at both planes"
        assert pair.defocus_um == plane_defocus_um(plane) < 0


def test_a_wells_side_depends_on_its_name_alone() -> None:
    names = [f"{row}{column:02d}" for row in "abcdefghijklmnop" for column in range(1, 25)]
    sides = {name: side_of(name, seed=0, validate=0.1, test=0.1) for name in names}
    shares = {side: list(sides.values()).count(side) / 384 for side in ("validate", "test")}
    assert all(0.06 < share < 0.14 for share in shares.values())
    fewer = sides_of(names[5:], seed=0, validate=0.1, test=0.1)
    assert all(fewer[name] == sides[name] for name in fewer)
    assert side_of("A01", seed=0, validate=0.5, test=0) == side_of(
        "a01", seed=0, validate=0.5, test=0
    )


@pytest.mark.parametrize("count", [3, 4, 10, 29])
def test_of_a_few_fields_shares_are_met_to_the_nearest(count: int) -> None:
    for seed in range(40):
        names = [f"field{number}" for number in range(count)]
        sides = list(sides_of(names, seed=seed, validate=0.2, test=0.1).values())
        assert sides.count("validate") == max(1, round(0.2 * count))
        assert sides.count("test") == max(1, round(0.1 * count))
        assert sides == list(sides_of(reversed(names), seed=seed, validate=0.2, test=0.1).values())
    greedy = list(sides_of(names, seed=0, validate=0.8, test=0.9).values())
    assert {"train", "validate", "test"} == set(greedy)


@pytest.mark.parametrize("count", [30, 32])
def test_of_many_fields_too_no_side_is_empty(count: int) -> None:
    names = [f"f{number}" for number in range(count)]
    # By the hash alone, none of them would be on the test side.
    assert "test" not in {side_of(name, seed=17, validate=0.1, test=0.1) for name in names}
    assert "test" in sides_of(names, seed=17, validate=0.1, test=0.1).values()


def test_what_a_plate_lacks_is_left_out_and_counted(plate: Path) -> None:
    (plate / folder_of(16) / name_of("b07", 1, 16)).unlink()
    (plate / folder_of(5) / name_of("c11", 1, 5)).unlink()
    cut = plate / folder_of(5) / name_of("c11", 2, 5)
    cut.write_bytes(cut.read_bytes()[:3000])
    tifffile.imwrite(plate / folder_of(1) / name_of("d20", 1, 1), np.zeros((64, 64), np.uint16) + 5)
    (plate / folder_of(1) / ("._" + name_of("d20", 1, 1))).write_bytes(b"junk")
    source = open_samples(
        DataConfig(kind="bbbc006", planes=(1, 5)), plate, size=64, batch=2, seed=0
    )
    assert source.description["skipped"] == {
        "damaged file": 1,
        "file of another size than 96x80 px": 1,
        "field without plane 16": 1,
        "plane of a field that is used without it": 3,
    }
    assert source.description["channels"] == ["w1", "w2"]


@pytest.mark.parametrize("layout", ["prefixed", "short", "nested"])
def test_plates_are_read_in_the_usual_layouts(tmp_path: Path, layout: str) -> None:
    for plane in (5, 16):
        folder = {
            "prefixed": tmp_path / "images",
            "short": tmp_path / f"z_{plane:02d}",
            "nested": tmp_path / folder_of(plane) / folder_of(plane),
        }[layout]
        folder.mkdir(parents=True, exist_ok=True)
        for well in ("a01", "b01"):
            name = name_of(well, 1, plane)
            name = f"{plane:02d}_{name}" if layout == "prefixed" else name
            tifffile.imwrite(folder / name, field(well, 1, plane))
    found = open_plate(tmp_path, planes=(5,))
    assert [field.name for field in found.fields] == ["a01 s1 w1", "b01 s1 w1"]
    assert found.skipped == {}


def test_nothing_to_train_on_is_one_clear_error(tmp_path: Path, plate: Path) -> None:
    with pytest.raises(InputError, match="fetch-bbbc006"):
        open_plate(tmp_path / "none", planes=(5,))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no file with a published name.*--planes 5 16"):
        open_plate(tmp_path / "empty", planes=(5,))
    with pytest.raises(InputError, match="file smaller than 512 px"):
        open_plate(plate, planes=(5,), smallest=512)
    for plane in (1, 5, 16):
        for path in (plate / folder_of(plane)).glob("*"):
            if "_a02_" not in path.name:
                path.unlink()
    config = DataConfig(kind="bbbc006", planes=(1, 5))
    with pytest.raises(InputError, match="more fields"):
        open_samples(config, plate, size=64, batch=2, seed=0)


def test_batches_of_pairs_are_a_function_of_seed_and_step(plate: Path) -> None:
    config = DataConfig(kind="bbbc006", planes=(1, 5), validate=0.2, validation_batches=2)
    one = open_samples(config, plate, size=64, batch=4, seed=1)
    two = open_samples(config, plate, size=64, batch=4, seed=1)
    stream = one.batches(0)
    next(stream)
    expected, found = next(stream), next(two.batches(1))
    np.testing.assert_array_equal(expected.raw, found.raw)
    np.testing.assert_array_equal(expected.truth, found.truth)
    assert found.raw.shape == (4, 1, 64, 64)
    assert set(found.defocus_um) <= {-30.0, -22.0}
    # The planes differ by a constant, which shows that crop, rotation and flip are the same.
    difference = (found.truth - found.raw).reshape(4, -1)
    assert np.ptp(difference, axis=1).max() < 1e-4
    other = open_samples(config, plate, size=64, batch=4, seed=2)
    for mine, theirs in zip(one.validation(), other.validation(), strict=True):
        np.testing.assert_array_equal(mine.raw, theirs.raw)
    assert {um for batch in one.validation() for um in batch.defocus_um} == {-30.0, -22.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"planes": (34,)}, "0 to 33"),
        ({"planes": (5,), "test_planes": (5,)}, "data.test_planes"),
        ({"kind": "bbbc"}, "must be one of"),
        ({"validate": 0.7}, "between 0.0 and 0.499"),
        ({"kind": "sharp", "channels": ("w1",)}, "NAME=FOLDER"),
        ({"layers": 9}, "between 1 and 4"),
        ({"defocus_um": (3.0, 1.0)}, "lowest"),
    ],
)
def test_settings_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    settings: dict[str, object] = {"kind": "bbbc006", **changes}
    with pytest.raises(ConfigError, match=message):
        DataConfig(**settings)  # type: ignore[arg-type]
