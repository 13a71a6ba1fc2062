"""`refocusd train`: what it parses, and that the base install can parse it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from refocusd_training.blur.frames import load_sharp
from refocusd_training.commands import register
from refocusd_training.evaluation import run

from refocusd.errors import InputError, OutputError
from refocusd.imaging.quality import focus_score


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    register(parser.add_subparsers(required=True))
    return parser.parse_args(["train", *arguments])


def test_the_commands_need_no_torch_to_be_known() -> None:
    code = (
        "import sys, refocusd_training.commands; "
        "print(sorted({'torch', 'onnx', 'openvino'} & set(sys.modules)))"
    )
    environment_path = [path for path in sys.path if path]
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {environment_path!r}; {code}"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "--config", "c.toml", "--data", "d", "--output", "o", "--bundle", "b"),
        ("export", "--run", "r", "--output", "o"),
        ("evaluate", "--bundle", "b", "--data", "d", "--json", "j"),
        ("fetch-bbbc038", "--output", "o"),
        ("simulate", "a.png", "--defocus-um", "8", "--output", "o.tif"),
    ],
)
def test_each_command_is_callable(arguments: tuple[str, ...]) -> None:
    assert callable(parsed(*arguments).command)


def test_simulate_writes_a_frame_that_is_out_of_focus(
    sample: NDArray[np.uint8], tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "sharp.tif", sample)
    frames = {}
    for um in ("0", "12"):
        target = tmp_path / f"{um}.tif"
        arguments = parsed(
            "simulate", str(tmp_path / "sharp.tif"), "--defocus-um", um, "--output", str(target)
        )
        assert arguments.command(arguments) == 0
        frames[um] = tifffile.imread(target)
    assert frames["12"].shape == sample.shape
    assert frames["12"].dtype == np.uint16
    assert focus_score(frames["12"]) < 0.6 * focus_score(frames["0"])
    with pytest.raises(OutputError, match="exists already"):
        arguments.command(arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--depth-um", "8"), "are a plane"),
        (("--layers", "3"), "are a plane"),
        (("--seed", "-1"), "cannot be simulated"),
        (("--defocus-um", "1e6"), "cannot be simulated"),
        (("--defocus-um", "nan"), "cannot be simulated"),
    ],
)
def test_simulate_refuses_what_it_would_leave_out_or_could_not_hold(
    arguments: tuple[str, str], said: str, sample: NDArray[np.uint8], tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "sharp.tif", sample)
    target = tmp_path / "out.tif"
    given = parsed(
        "simulate",
        str(tmp_path / "sharp.tif"),
        "--output",
        str(target),
        "--defocus-um",
        "8",
        *arguments,
    )
    with pytest.raises(InputError, match=said):
        given.command(given)
    assert not target.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--minutes", "0"), "--minutes is 0"),
        (("--transmitted", "no.tif"), "no.tif cannot be read"),
        (("--output", "/proc/none/verdict.toml"), "cannot be written"),
    ],
)
def test_trust_refuses_what_it_would_stumble_over_in_the_end(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    given = parsed("trust", "--data", str(tmp_path), *arguments)
    with pytest.raises((InputError, OutputError), match=said):
        given.command(given)


def test_folders_of_sharp_images_are_named_where_they_cannot_be_used(
    sample: NDArray[np.uint8], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="mistyped cannot be read"):
        load_sharp([tmp_path / "mistyped"])
    tifffile.imwrite(tmp_path / "float.tif", sample.astype(np.float32))
    assert len(load_sharp([tmp_path])) == 1
    red = np.stack([sample, sample // 2, sample // 3], -1)
    tifffile.imwrite(tmp_path / "red.tif", red, photometric="rgb")
    with pytest.raises(InputError, match=r"red\.tif is a colour image"):
        load_sharp([tmp_path])
    (tmp_path / "red.tif").write_bytes((tmp_path / "float.tif").read_bytes()[:1000])
    with pytest.raises(InputError, match=r"red\.tif cannot be read as an image"):
        load_sharp([tmp_path])


def test_stacks_are_evaluated_with_the_model_that_is_used_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []
    monkeypatch.setattr(run, "run_stacks", lambda engines, *_, **__: asked.append(engines))
    given = parsed("evaluate", "--protocol", "stacks", "--data", str(tmp_path))
    assert given.command(given) == 0
    assert asked == [("live-fluorescence", "deconvolution")]
    given.json = tmp_path / "file" / "q.json"
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        given.command(given)
    assert len(asked) == 1
