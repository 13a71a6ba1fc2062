"""The doctor: what it finds on this computer and on broken ones, and that nothing stops it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import psutil
import pynvml
import pytest
from live import quick_settings
from view_process import ask
from waiting import PATIENCE_S

from refocusd import __version__
from refocusd.config import Settings
from refocusd.daemon.daemon import Daemon
from refocusd.doctor import (
    CHECKS,
    Case,
    Check,
    Finding,
    disk,
    engine,
    examine,
    machine,
    memory_ring,
    network,
    parse_plan,
)
from refocusd.doctor.disk import network_kind
from refocusd.doctor.memory_ring import TRIAL, RingOrder, RingReport
from refocusd.errors import ConfigError, WorkerError
from refocusd.processes.trial import attempt
from refocusd.transport.ring import PAGE, SharedRing
from refocusd.view.process import ViewProcess


def doctor(*flags: object, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "refocusd", "doctor", "--folder", tmp_path, "--ring-mib", 16]
    command += ["--ledgers", tmp_path / "ledgers", "--endpoint", f"tcp://127.0.0.1:{free_port()}"]
    return subprocess.run(
        [*map(str, command), *map(str, flags)],
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=tmp_path,
    )


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def case(tmp_path: Path, plan: str = "", **changes: Any) -> Case:
    changes = {"endpoint": f"tcp://127.0.0.1:{free_port()}"} | changes
    settings = quick_settings(tmp_path, **changes)
    return Case(settings, tmp_path, parse_plan(plan) if plan else None)


def only(found: Iterable[Finding]) -> Finding:
    (finding,) = found
    return finding


@contextmanager
def silent_program() -> Iterator[int]:
    """Run a program that accepts connections and never answers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(8)
        yield listener.getsockname()[1]


def test_this_computer_is_examined_and_left_as_it_was(tmp_path: Path) -> None:
    done = doctor("--backend", "identity", "--json", "--view-port", 0, tmp_path=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["usable"]
    assert report["version"] == __version__
    by_name = {finding["name"]: finding for finding in report["findings"]}
    for name in ("settings", "Python", "engine", "ring", "daemon", "ledgers", "output folder"):
        assert by_name[name]["mark"] == "OK", by_name[name]
    assert all(finding["says"] for finding in report["findings"])
    assert not any("this check failed" in finding["says"] for finding in report["findings"])
    assert list(tmp_path.iterdir()) == []


def test_each_line_says_what_was_found_and_the_next_what_to_do(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    done = doctor(
        "--backend",
        "identity",
        "--plan",
        "9999x9999x16,999999999",
        "--json",
        file,
        tmp_path=tmp_path,
    )
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert {line[:2] for line in lines} <= {"OK", "!!", "--", "  "}
    (room,) = [number for number, line in enumerate(lines) if line.startswith("!!  room")]
    assert "raw and refocused" in lines[room]
    assert "save elsewhere" in lines[room + 1]
    assert json.loads(file.read_text(encoding="utf-8"))["usable"] is False


def test_a_wrong_setting_is_the_first_finding(tmp_path: Path) -> None:
    config = tmp_path / "refocusd.toml"
    config.write_text("ring_mb = 1\n", encoding="utf-8")
    done = doctor("--config", config, tmp_path=tmp_path)
    assert done.returncode == 1
    assert done.stdout.startswith("!!  settings")
    assert "ring_mb" in done.stdout


def test_a_check_that_hangs_or_raises_is_a_line_like_others(tmp_path: Path) -> None:
    forever = threading.Event()

    def hang(case: Case) -> Iterator[Finding]:
        forever.wait(60)
        yield from ()

    def fail(case: Case) -> Iterator[Finding]:
        raise RuntimeError("the driver lies")

    try:
        found = list(
            examine(
                case(tmp_path),
                [
                    Check("hangs", hang, limit_s=0.2, needed=True),
                    Check("fails", fail),
                    Check("clock", machine.clock),
                ],
            )
        )
    finally:
        forever.set()
    assert [(one.name, one.mark, one.blocks) for one in found] == [
        ("hangs", "!!", True),
        ("fails", "!!", False),
        ("clock", "OK", False),
    ]
    assert "no answer within 0.2 s" in found[0].says
    assert "RuntimeError: the driver lies" in found[1].says


def test_every_check_has_a_limit_and_a_name_of_its_own() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(0 < check.limit_s < 120 for check in CHECKS)


def test_a_plan_is_doubled() -> None:
    plan = parse_plan("2048x2048x12,1000")
    assert plan.frame_nbytes == 2048 * 2048 * 2
    assert plan.nbytes >= 2 * 1000 * plan.frame_nbytes
    assert parse_plan("640X512x8,1").frame_nbytes == 640 * 512


@pytest.mark.parametrize(
    "text", ["", "2048", "2048x2048,10", "0x1x8,1", "1x1x32,1", "1x1x8,0", "2048x2048x16,-1"]
)
def test_an_invalid_plan_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ConfigError, match="--plan"):
        parse_plan(text)


def test_a_running_daemon_and_its_view_are_recognised(tmp_path: Path) -> None:
    with Daemon(quick_settings(tmp_path)) as daemon:
        daemon.wait_ready()  # starting its worker keeps the processors busy
        looked = case(tmp_path, endpoint=daemon.endpoint)
        assert (
            only(network.daemon(looked)).says == f"version {__version__} runs at {daemon.endpoint}"
        )
        with ViewProcess(daemon.endpoint, ["--port", "0"]) as view:
            assert view.settled.wait(PATIENCE_S)
            port = int(view.url.rstrip("/").rpartition(":")[2])
            # The first answer takes longest, because much is loaded for it.
            assert ask(port, "/health").status in (200, 503)
            found = only(network.view_port(case(tmp_path, view_port=port)))
            assert (found.mark, found.says) == ("OK", f"http://127.0.0.1:{port}/")


@pytest.mark.parametrize(
    ("check", "setting", "blocks"),
    [
        (network.daemon, "endpoint", True),
        (network.view_port, "view_port", False),
        (network.bridge, "bridge_port", False),
    ],
)
def test_a_silent_program_on_a_port_is_found_out(
    tmp_path: Path, check: Callable[[Case], Iterable[Finding]], setting: str, blocks: bool
) -> None:
    with silent_program() as port:
        changes: dict[str, Any] = {setting: port}
        if setting == "endpoint":
            changes = {"endpoint": f"tcp://127.0.0.1:{port}"}
        found = only(check(case(tmp_path, **changes)))
    assert (found.mark, found.blocks) == ("!!", blocks)
    assert str(port) in found.says
    assert found.advice


def test_no_micro_manager_is_fine_unless_it_is_wanted(tmp_path: Path) -> None:
    port = free_port()
    assert only(network.bridge(case(tmp_path, bridge_port=port))).mark == "--"
    wanted = only(network.bridge(case(tmp_path, bridge_port=port, studio="on")))
    assert wanted.mark == "!!"
    assert "pycro-manager server" in wanted.advice


def test_ledgers_where_nothing_can_be_written_block(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = only(disk.ledgers(case(tmp_path, ledgers=str(tmp_path / "file"))))
    assert found.blocks
    assert "set ledgers" in found.advice


def test_an_output_folder_where_nothing_can_be_written_blocks(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = only(disk.output(Case(Settings(), tmp_path / "file")))
    assert found.blocks
    assert "nothing can be written" in found.says


def test_an_output_folder_that_onedrive_uploads_is_doubtful(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OneDriveCommercial", str(tmp_path))
    found = only(disk.output(Case(Settings(), tmp_path / "Documents" / "cells")))
    assert "OneDrive" in found.says
    assert not found.blocks
    assert "save elsewhere" in found.advice


@pytest.mark.parametrize("limited", [True, False])
def test_an_output_folder_with_a_long_path_is_doubtful_where_windows_limits_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limited: bool
) -> None:
    monkeypatch.setattr(disk, "paths_are_limited", lambda: limited)
    found = only(disk.output(Case(Settings(), tmp_path / "long name" / ("x" * 150))))
    assert ("259 characters" in found.says) is limited


def test_the_disk_is_timed_and_nothing_stays_behind(tmp_path: Path) -> None:
    found = only(disk.speed(case(tmp_path, "512x512x16,10")))
    assert "512x512 raw and refocused" in found.says
    assert list(tmp_path.iterdir()) == []


@dataclass
class Mounted:
    """A mounted file system."""

    mountpoint: str
    fstype: str
    opts: str = "rw"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX paths")
@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/home/u", ""),
        ("/data/x", "nfs4"),
        ("/data/my disk/x", ""),
        ("/database", ""),
        ("/z/y", ""),
    ],
)
def test_the_disk_of_a_folder_is_that_of_its_innermost_mount(
    monkeypatch: pytest.MonkeyPatch, folder: str, kind: str
) -> None:
    mounts = [
        Mounted("/", "ext4"),
        Mounted("/data", "nfs4"),
        Mounted("/data/my disk", "xfs"),
        Mounted("/z", "cifs"),
        Mounted("/z", "ext4"),  # the later one hides the other
    ]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounts)
    assert network_kind(Path(folder)) == kind


def test_a_drive_that_windows_calls_remote_is_a_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounted = Mounted(tmp_path.anchor, "NTFS", "rw,remote")
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [mounted])
    assert network_kind(tmp_path) == "share"


def test_a_computer_without_a_card_uses_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_driver() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", no_driver)
    assert only(engine.devices(case(tmp_path))).mark == "--"


def test_a_card_is_named_with_its_memory_and_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    says: dict[str, Any] = {
        "nvmlInit": None,
        "nvmlShutdown": None,
        "nvmlSystemGetDriverVersion": "570.1",
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": object(),
        "nvmlDeviceGetName": "A card",
        "nvmlDeviceGetMemoryInfo": SimpleNamespace(free=3 << 30, total=8 << 30),
    }
    for name, answer in says.items():
        monkeypatch.setattr(pynvml, name, lambda *_, answer=answer: answer)
    found = only(engine.devices(case(tmp_path)))
    assert (found.mark, found.says) == ("OK", "A card, 3.0 of 8.0 GiB free, driver 570.1")


def test_the_engine_is_the_one_a_worker_would_build(tmp_path: Path) -> None:
    found = only(engine.engine(case(tmp_path, "128x96x16,1", backend="openvino", precision="f32")))
    assert found.mark == "OK", found
    assert "openvino f32 on CPU, model live-nuclei: 128x96 px" in found.says


def test_a_missing_model_blocks_and_is_named(tmp_path: Path) -> None:
    found = only(engine.engine(case(tmp_path, backend="auto", model="no-such-model")))
    assert found.blocks
    assert "no-such-model" in found.says
    assert "refocusd models" in found.advice


def test_a_trial_that_takes_too_long_is_ended() -> None:
    with SharedRing.create(1 << 20) as ring:
        order = RingOrder(ring.address, PAGE, (8, 8))
        with pytest.raises(WorkerError, match=r"not done after 0\.01 s"):
            attempt(TRIAL, order, RingReport, 0.01)


def test_the_ring_is_read_by_another_process(tmp_path: Path) -> None:
    assert only(memory_ring.ring(case(tmp_path))).mark == "OK"
    assert only(memory_ring.ring(case(tmp_path, inline=True))).mark == "--"


def test_a_foreign_block_of_memory_is_no_ring() -> None:
    with SharedRing.create(1 << 20) as ring:
        other = msgspec.structs.replace(ring.address, tag="0" * 32)
        with pytest.raises(WorkerError, match=r"another block|cannot be attached"):
            attempt(TRIAL, RingOrder(other, PAGE, (8, 8)), RingReport, 30)
