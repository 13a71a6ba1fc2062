"""An interrupted run continues exactly, whatever interrupted it."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from refocusd_training.config import write_config
from refocusd_training.loop.files import read_record, read_state, write_whole
from refocusd_training.loop.run import run_training
from tiny_training import TINY, column, same_weights, train, write_images

from refocusd.errors import ConfigError, DiskFullError, InputError


def test_a_run_with_more_steps_ends_as_one_that_was_not_stopped(
    flux: NDArray[np.float32], tmp_path: Path
) -> None:
    one, stopped = tmp_path / "one", tmp_path / "stopped"
    train(TINY, [flux], one)
    train(replace(TINY, steps=20, decay=0), [flux], stopped)
    train(TINY, [flux], stopped, resume=True)
    assert column(stopped, "loss") == column(one, "loss")
    assert same_weights(one, stopped)
    # Nothing remains to be done: it reports what it did.
    assert train(TINY, [flux], stopped, resume=True) == read_record(stopped)


def test_frames_exposed_by_the_device_depend_on_seed_and_step_alone(
    sample: NDArray[np.uint8], tmp_path: Path
) -> None:
    images = write_images(tmp_path / "images", sample)
    config = replace(TINY, steps=8, decay=0, final_loss=None, simulation="device")
    run_training(config, images, tmp_path / "one", device="cpu")
    run_training(replace(config, steps=4), images, tmp_path / "two", device="cpu")
    run_training(config, images, tmp_path / "two", device="cpu", resume=True)
    assert same_weights(tmp_path / "one", tmp_path / "two")
    run_training(replace(config, simulation="cpu"), images, tmp_path / "cpu", device="cpu")
    assert not same_weights(tmp_path / "one", tmp_path / "cpu")


@pytest.mark.timeout(100)
@pytest.mark.parametrize("how", ["killed", "ctrl-c"])
def test_an_interrupted_run_goes_on_to_the_same_weights(
    how: str, sample: NDArray[np.uint8], tmp_path: Path
) -> None:
    if how == "ctrl-c" and sys.platform == "win32":
        pytest.skip("a child cannot be sent Ctrl-C alone: POSIX only")
    every = 5 if how == "killed" else 100_000  # Ctrl-C writes its own checkpoint
    images = write_images(tmp_path / "images", sample)
    # No decay, so that the rates do not depend on the planned number of steps.
    config = replace(
        TINY, steps=100_000, decay=0, final_loss=None, checkpoint_every=every, validate_every=5
    )
    write_config(config, tmp_path / "config.toml")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    command = "import sys; from refocusd.cli.main import main; sys.exit(main())"
    arguments = ["--config", tmp_path / "config.toml", "--data", images, "--output", killed]
    with subprocess.Popen(
        [sys.executable, "-c", command, "train", "run", "--device", "cpu", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as child:
        deadline = time.monotonic() + 80
        while not (killed / "log.csv").exists() or len(column(killed, "step")) < 25:
            assert child.poll() is None, "the training ended by itself"
            assert time.monotonic() < deadline, "no step came"
            time.sleep(0.05)
        if how == "killed":
            child.kill()
        else:
            child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=30)
    if how == "ctrl-c":
        assert child.returncode == 130
        assert b"with a checkpoint: continue with 'train run' and --resume" in out
        assert err.endswith(b"refocusd: interrupted\n")
    steps = int(read_state(killed / "state.pt")["step"]) + 7
    config = replace(config, steps=steps)
    run_training(config, images, killed, device="cpu", resume=True)
    run_training(config, images, whole, device="cpu")
    assert same_weights(whole, killed)
    assert column(killed, "loss") == column(whole, "loss")
    validated = [column(run, "validation_loss", "validation.csv") for run in (killed, whole)]
    assert validated[0] == validated[1]
    assert read_record(killed).best_step == read_record(whole).best_step


@contextmanager
def little_disk(folder: Path, free: int) -> Iterator[None]:
    """Give a folder on a separate file system with `free` bytes left, or skip."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs to mount a file system: Linux and root only")
    size = 8 << 20
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("needs to mount a file system, which this machine does not allow")
    try:
        (folder / "ballast").write_bytes(bytes(size - free))
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextmanager
def small_files(most: int) -> Iterator[None]:
    """Refuse files of more than `most` bytes, as a quota does."""
    if sys.platform == "win32":
        pytest.skip("needs a limit on file sizes: POSIX only")
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_checkpoint_before_it(
    flux: NDArray[np.float32], tmp_path: Path
) -> None:
    run = tmp_path / "disk" / "run"
    run.parent.mkdir()
    short = replace(TINY, steps=5, decay=0, final_loss=None, checkpoint_every=5)
    longer = replace(short, steps=10)
    # Room for one state of 450 kB and its weights, but not for a second one beside them.
    with little_disk(run.parent, free=800_000):
        train(short, [flux], run)
        before = (run / "state.pt").read_bytes()
        with pytest.raises(DiskFullError, match=r"state\.pt cannot be written.*--resume"):
            train(longer, [flux], run, resume=True)
        assert (run / "state.pt").read_bytes() == before
        assert not list(run.glob("*.new"))
        (run.parent / "ballast").unlink()
        assert train(longer, [flux], run, resume=True).steps == 10
        train(longer, [flux], tmp_path / "whole")
        assert same_weights(tmp_path / "whole", run)


def test_a_quota_leaves_the_checkpoint_before_it(flux: NDArray[np.float32], tmp_path: Path) -> None:
    short = replace(TINY, steps=5, decay=0, final_loss=None, checkpoint_every=5)
    train(short, [flux], tmp_path / "run")
    before = (tmp_path / "run" / "state.pt").read_bytes()
    with (
        small_files(len(before) // 2),
        pytest.raises(DiskFullError, match=r"state\.pt cannot be written"),
    ):
        train(replace(short, steps=10), [flux], tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "state.pt").read_bytes() == before
    assert not list((tmp_path / "run").glob("*.new"))


def test_a_state_executes_nothing(flux: NDArray[np.float32], tmp_path: Path) -> None:
    short = replace(TINY, steps=2, checkpoint_every=2)
    train(short, [flux], tmp_path / "run")
    done = tmp_path / "executed"

    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(done),))

    torch.save({"step": Bomb()}, tmp_path / "run" / "state.pt")
    with pytest.raises(InputError, match="does not continue this run"):
        train(TINY, [flux], tmp_path / "run", resume=True)
    (tmp_path / "run" / "state.pt").write_bytes(pickle.dumps(Bomb(), protocol=2))
    with pytest.raises(InputError, match="does not continue this run"):
        train(TINY, [flux], tmp_path / "run", resume=True)
    assert not done.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"no state at all"])
def test_a_damaged_state_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "state.pt").write_bytes(content)
    with pytest.raises(InputError, match="does not continue this run"):
        read_state(tmp_path / "state.pt")


def test_another_run_is_not_continued(flux: NDArray[np.float32], tmp_path: Path) -> None:
    short = replace(TINY, steps=2, checkpoint_every=2)
    train(short, [flux], tmp_path / "run")
    with pytest.raises(ConfigError, match=r"batch is 3, but the run .* was begun with 2"):
        train(replace(TINY, batch=3), [flux], tmp_path / "run", resume=True)
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        train(TINY, [flux], tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with small_files(10), pytest.raises(DiskFullError) as caught:
        write_whole(tmp_path / "file", bytes(100))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"
