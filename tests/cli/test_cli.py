"""The command line as a user meets it: real processes, files, exit statuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from live import keys, read_all, stack, write_stack
from PIL import Image

from refocusd.cli.flags import as_meant_on_windows
from refocusd.cli.main import build_parser
from refocusd.datasets.run_folder import LEDGER_COPY
from refocusd.errors import ConfigError


def refocusd(*arguments: object, tmp_path: Path, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "refocusd", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, **more)


def replay(path: Path, output: Path, *more: object, tmp_path: Path) -> Any:
    flags = ["--backend", "identity", "--ledgers", tmp_path / "ledgers", "--ring-mib", 64]
    return refocusd("replay", path, "--output", output, *flags, *more, tmp_path=tmp_path)


def test_help_names_the_commands_and_shows_examples(tmp_path: Path) -> None:
    done = refocusd("--help", tmp_path=tmp_path)
    assert done.returncode == 0
    for word in ("run", "replay", "demo", "models", "config", "train", "examples:"):
        assert word in done.stdout


def test_a_stack_is_replayed_and_its_figures_are_written(tmp_path: Path) -> None:
    frames = stack(12)
    path = write_stack(tmp_path / "cells.tif", frames)
    figures_file = tmp_path / "figures.json"
    done = replay(
        path,
        tmp_path / "out",
        "--fps",
        0,
        "--reference",
        "z=4",
        "--json",
        figures_file,
        tmp_path=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(figures_file.read_text())
    assert figures["frames_acquired"] == 12
    assert figures["frames_passed_through"] == 12
    assert figures["frames_failed"] == figures["frames_pending"] == 0
    assert figures["latency_ms_p50"] > 0
    assert figures["frames_per_s"] > 0
    levels = {level["defocus_planes"]: level for level in figures["levels"]}
    assert set(levels) == {z - 4.0 for z in range(12)}
    assert levels[1.0]["psnr_db_before"] == levels[1.0]["psnr_db_after"]
    assert "PSNR" in done.stdout
    written = read_all(tmp_path / "out" / "cells_refocused")
    assert all((written[f'{{"z":{z}}}'][0] == frame).all() for z, frame in enumerate(frames))
    # Raw is left as it was.
    np.testing.assert_array_equal(tifffile.imread(path), frames)


def test_frames_are_replayed_at_the_rate_asked_for(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "cells.tif", stack(20))
    figures = tmp_path / "figures.json"
    done = replay(
        path,
        tmp_path / "out",
        "--fps",
        5,
        "--json",
        figures,
        "--reference",
        "none",
        tmp_path=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    # 20 frames a fifth of a second apart: 19 intervals, and the last frame's latency, less what the
    # first frame was late: half a second more where the computer is busy.
    assert 4.2 < json.loads(figures.read_text())["frames_per_s"] < 6


def test_a_bbbc006_folder_is_compared_per_plane(tmp_path: Path) -> None:
    plate = tmp_path / "BBBC006"
    frames = stack(3)
    for z, frame in zip((10, 16, 22), frames, strict=True):
        folder = plate / f"BBBC006_v1_images_z_{z:02}"
        folder.mkdir(parents=True)
        name = f"mcf-z-stacks-03212011_a02_s1_w1{z:08x}-0000-4000-8000-000000000000.tif"
        tifffile.imwrite(folder / name, frame)
    figures = tmp_path / "figures.json"
    done = replay(
        plate, tmp_path / "out", "--reference", "z=16", "--json", figures, tmp_path=tmp_path
    )
    assert done.returncode == 0, done.stderr
    levels = [level["defocus_planes"] for level in json.loads(figures.read_text())["levels"]]
    assert levels == [-6.0, 0.0, 6.0]
    (dataset,) = (tmp_path / "out").glob("*_refocused")
    assert {json.loads(key)["z"] for key in keys(dataset)} == {10, 16, 22}


def test_the_refocused_dataset_can_be_replayed_itself(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "cells.tif", stack(4))
    assert replay(path, tmp_path / "one", tmp_path=tmp_path).returncode == 0
    again = replay(tmp_path / "one" / "cells_refocused", tmp_path / "two", tmp_path=tmp_path)
    assert again.returncode == 0, again.stderr
    (dataset,) = (tmp_path / "two").glob("*_refocused")
    assert len(keys(dataset)) == 4


def unreadable_page(path: Path) -> Path:
    """A TIFF that claims more rows than it has pixels for."""
    tifffile.imwrite(path, stack(1)[0])
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags["ImageLength"]  # type: ignore[union-attr]
        offset = tag.valueoffset
    data[offset : offset + 2] = (4096).to_bytes(2, "little")
    path.write_bytes(data)
    return path


def image(path: Path, pixels: Any) -> Path:
    tifffile.imwrite(path, pixels)
    return path


BAD_INPUT: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda p: p / "absent.tif", "does not exist"),
    "empty-file": (lambda p: _touch(p / "empty.tif"), "empty"),
    "empty-folder": (lambda p: _mkdir(p / "nothing"), "TIFF"),
    "text": (lambda p: _text(p / "notes.tif"), "TIFF"),
    "mismatch": (lambda p: unreadable_page(p / "lying.tif"), "lying.tif"),
    "rgb": (lambda p: image(p / "rgb.tif", np.zeros((64, 64, 3), np.uint8)), "RGB"),
    "float": (lambda p: image(p / "float.tif", np.zeros((64, 64), np.float32)), "float"),
}


def _touch(path: Path) -> Path:
    path.touch()
    return path


def _mkdir(path: Path) -> Path:
    path.mkdir()
    return path


def _text(path: Path) -> Path:
    path.write_text("not an image")
    return path


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_one_clear_error_before_any_work(tmp_path: Path, case: str) -> None:
    make, word = BAD_INPUT[case]
    done = replay(make(tmp_path), tmp_path / "out", tmp_path=tmp_path)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert word in errors[0]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--reference", "z=99"], "its planes are"),
        (["--reference", "sharpest"], "write z=N"),
        (["--fps", "-1"], "--fps"),
        (["--model", "no-such-model", "--backend", "auto"], "no model bundle"),
        (["--config", "absent.toml"], "cannot be read"),
        (["--ring-mib", "0"], "ring_mib"),
    ],
)
def test_a_wrong_flag_is_one_clear_error(tmp_path: Path, flags: list[str], word: str) -> None:
    path = write_stack(tmp_path / "cells.tif", stack(4))
    done = replay(path, tmp_path / "out", *flags, tmp_path=tmp_path)
    assert done.returncode == 2
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out/*_refocused"))


def test_wildcards_that_the_shell_left_are_names_in_their_order(tmp_path: Path) -> None:
    """As Windows' shells do; here they come in quotation marks."""
    for name in ("b.tif", "a.tif", "c.txt", "d[1].tif"):
        (tmp_path / name).touch()
    typed = [tmp_path / "?.tif", tmp_path / "d[1].tif", tmp_path / "*.png"]
    parsed = build_parser("process").parse_args(["process", *map(str, typed)])
    names = [path.name for path in parsed.paths]
    assert names == ["a.tif", "b.tif", "d[1].tif", "*.png"]
    assert build_parser("resume").parse_args(["resume", str(typed[0])]).datasets == [
        tmp_path / "a.tif",
        tmp_path / "b.tif",
    ]


@pytest.mark.parametrize(
    ("got", "meant"),
    [
        ('D:\\my data"', "D:\\my data\\"),
        ('--output=D:"', "--output=D:\\"),
        ("D:\\my data\\", "D:\\my data\\"),
    ],
)
def test_a_folder_in_quotation_marks_may_end_in_a_backslash_on_windows(
    got: str, meant: str
) -> None:
    assert as_meant_on_windows(["verify", got]) == ["verify", meant]


def test_what_such_a_folder_has_swallowed_is_told() -> None:
    with pytest.raises(ConfigError, match=r"D:\\my data.*backslash"):
        as_meant_on_windows(["verify", 'D:\\my data" --quick'])


@pytest.mark.skipif(sys.platform != "win32", reason="elsewhere a name may have the mark")
def test_on_windows_the_command_understands_it(tmp_path: Path) -> None:
    done = refocusd("doctor", "--folder", f'{tmp_path}\\my data" --plan x', tmp_path=tmp_path)
    assert done.returncode == 2
    assert "backslash" in done.stderr
    assert "Traceback" not in done.stderr


def test_output_that_exists_is_left_alone(tmp_path: Path) -> None:
    path = write_stack(tmp_path / "cells.tif", stack(4))
    assert replay(path, tmp_path / "out", tmp_path=tmp_path).returncode == 0
    before = (tmp_path / "out/cells_refocused/NDTiffStack.tif").read_bytes()
    done = replay(path, tmp_path / "out", tmp_path=tmp_path)
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert (tmp_path / "out/cells_refocused/NDTiffStack.tif").read_bytes() == before


def test_the_daemon_runs_is_stopped_over_its_socket_and_tells_its_counts(tmp_path: Path) -> None:
    figures = tmp_path / "counts.json"
    config = tmp_path / "refocusd.toml"
    config.write_text(
        f'endpoint = "tcp://127.0.0.1:0"\nbackend = "identity"\nreserve_mib = 1\n'
        f"ledgers = {json.dumps(str(tmp_path / 'ledgers'))}\n"
    )
    command = [
        sys.executable,
        "-m",
        "refocusd",
        "run",
        "--no-view",
        "--config",
        config,
        "--announce",
    ]
    command += ["--json", figures]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        endpoint = json.loads(daemon.stdout.readline())["endpoint"]
        path = write_stack(tmp_path / "cells.tif", stack(6))
        done = replay(path, tmp_path / "out", "--endpoint", endpoint, tmp_path=tmp_path)
        assert done.returncode == 0, done.stderr
        second = refocusd("run", "--endpoint", endpoint, tmp_path=tmp_path)
        assert second.returncode == 2
        assert "listens at" in second.stderr
        stop = refocusd("run", "--stop", "--endpoint", endpoint, tmp_path=tmp_path)
        assert stop.returncode == 0, stop.stderr
        assert daemon.wait(20) == 0
    (counts,) = json.loads(figures.read_text()).values()
    assert counts["passed_through"] == 6


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_stops_the_daemon_cleanly(tmp_path: Path, name: str) -> None:
    import signal

    command = [
        sys.executable,
        "-m",
        "refocusd",
        "run",
        "--no-view",
        "--announce",
        "--backend",
        "identity",
    ]
    command += ["--endpoint", "tcp://127.0.0.1:0", "--ledgers", str(tmp_path / "ledgers")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        daemon.stdout.readline()
        daemon.send_signal(getattr(signal, name))
        assert daemon.wait(20) == 0


def test_stopping_what_does_not_run_is_told(tmp_path: Path) -> None:
    done = refocusd("run", "--stop", "--endpoint", "tcp://127.0.0.1:9", tmp_path=tmp_path)
    assert done.returncode == 2
    assert "no refocusd daemon answers" in done.stderr


def test_the_settings_in_force_are_printed_as_toml(tmp_path: Path) -> None:
    import tomllib

    done = refocusd("config", "--ring-mib", 77, tmp_path=tmp_path)
    assert done.returncode == 0, done.stderr
    settings = tomllib.loads(done.stdout)
    assert settings["ring_mib"] == 77
    assert settings["model"] == "live-fluorescence"


@pytest.mark.slow
def test_the_demo_goes_from_the_microscope_to_the_picture(tmp_path: Path) -> None:
    output, figures_file = tmp_path / "demo", tmp_path / "figures.json"
    done = refocusd(
        "demo",
        "--output",
        output,
        "--times",
        2,
        "--json",
        figures_file,
        "--ledgers",
        tmp_path / "ledgers",
        tmp_path=tmp_path,
        timeout=110,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(figures_file.read_text())
    assert figures["frames_acquired"] == 72
    assert figures["frames_refocused"] + figures["frames_passed_through"] == 72
    by_level = {level["defocus_um"]: level for level in figures["levels"]}
    assert by_level[0.0]["psnr_db_after"] >= by_level[0.0]["psnr_db_before"] - 0.1
    for defocus_um in (8.0, 16.0):
        gain = by_level[defocus_um]["psnr_db_after"] - by_level[defocus_um]["psnr_db_before"]
        assert gain >= 1.0, f"{defocus_um} um: {gain:.2f} dB"
    with Image.open(output / "contact-sheet.png") as picture:
        assert picture.width > 700
        assert picture.height > 700
    for name in ("snapped_1", "sequenced_1"):
        assert set(keys(output / name)) == set(keys(output / f"{name}_refocused"))
        assert (output / f"{name}_refocused" / LEDGER_COPY).exists()
    again = refocusd("demo", "--output", output, tmp_path=tmp_path)
    assert again.returncode == 2
    assert "not an empty folder" in again.stderr


@pytest.mark.parametrize(
    ("line", "imported"),
    [
        ("run --listen view", ["refocusd.cli.commands.run"]),
        ("-v --log-file view export --help", ["refocusd.cli.commands.export"]),
        ("--version", []),
    ],
)
def test_a_command_that_is_named_imports_no_other_and_no_web_server(
    tmp_path: Path, line: str, imported: list[str]
) -> None:
    """A daemon, and each of thousands of commands in a script, starts in half the time."""
    script = (
        f"import sys; from refocusd.cli.main import build_parser; build_parser(*{line.split()});"
        "print(*(name for name in sys.modules if name.startswith(('refocusd.cli.commands.', 'starlette'))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert done.stdout.split() == imported


def test_the_commands_of_other_packages_are_found_whatever_theirs_are_called() -> None:
    assert build_parser("train", "export").parse_args(["train", "export"]).subcommand == "train"
