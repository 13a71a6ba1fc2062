"""Screens on a cluster: one job per position, and a complete ledger whatever is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pytest
import yaozarrs
import zarr
from cluster_jobs import order_for, prepared, process
from finished import snapshot, verify
from plates_on_disk import write_image, write_plate
from slurm_node import missing, one_node
from webhook import receiver

from benchmarks.speed.cluster.plates import write_plate as benchmark_plate
from refocusd.cli.offline import output_of_run
from refocusd.cluster import job
from refocusd.cluster.job import refocus_position
from refocusd.cluster.order import JobResult
from refocusd.cluster.scheduler import ClusterOptions, connected
from refocusd.cluster.screen import Cluster
from refocusd.config import Settings
from refocusd.daemon.output.trust_maps import PARTS
from refocusd.datasets.run_folder import trust_maps_of
from refocusd.errors import ConfigError, OutputError, TransportError
from refocusd.formats.ome_zarr.mirror.image import MirrorImage
from refocusd.formats.ome_zarr.mirror.layout import list_path
from refocusd.formats.ome_zarr.store.reader import StoreReader
from refocusd.formats.open_dataset import open_dataset
from refocusd.frame import Axes, Frame
from refocusd.imaging.trust_map import AS_ACQUIRED
from refocusd.transport.messages import FrameFacts
from refocusd.worker.refocus import refocus_frame

distributed = pytest.importorskip("distributed", reason="the extra `cluster` is not installed")

#: Dask leaves some of these at the end of its processes.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.timeout(600),
]


def test_a_job_does_its_position_once(tmp_path: Path) -> None:
    raw, out = prepared(tmp_path)
    order = order_for(raw, out)
    done = JobResult.unpack(refocus_position(order.pack()))
    assert [attempt.axes for attempt in done.attempts] == order.keys
    assert {attempt.state for attempt in done.attempts} == {"passed_through"}
    assert all(a.checksum == a.raw_checksum for a in done.attempts)
    again = JobResult.unpack(refocus_position(order.pack()))
    assert (again.attempts, again.found) == ([], 12)
    with open_dataset(out) as dataset:
        assert dataset.axes_keys() == order.keys
        assert dataset.metadata(order.keys[0])["refocusd"]["run"] == "r"


def test_a_job_knows_how_far_apart_planes_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it, a frame without a stage position in its metadata has a distance from focus."""
    raw, out = prepared(tmp_path)
    summaries = []
    monkeypatch.setattr(
        job, "blur_by_microscope", lambda _, __, summary, *___: summaries.append(summary)
    )
    refocus_position(order_for(raw, out).pack())
    with open_dataset(raw) as dataset:
        assert dataset.summary["z-step_um"] > 0
        assert {json.loads(summary)["z-step_um"] for summary in summaries} == {
            dataset.summary["z-step_um"]
        }


def test_a_job_goes_on_where_a_killed_one_stopped(tmp_path: Path) -> None:
    raw, out = prepared(tmp_path)
    order = order_for(raw, out)
    refocus_position(order.pack())
    place = list_path(out, order.position)
    lines = place.read_bytes().splitlines(keepends=True)
    place.write_bytes(b"".join(lines[:5]) + lines[5][:50])
    done = JobResult.unpack(refocus_position(order.pack()))
    assert (len(done.attempts), done.found) == (7, 5)
    assert len(open_dataset(out)) == 12


def test_a_job_reads_the_next_frame_and_writes_the_last_one_while_the_engine_works(
    tmp_path: Path,
) -> None:
    raw, out = prepared(tmp_path)
    order = order_for(raw, out)
    read, written = threading.Semaphore(0), threading.Semaphore(0)
    begun: list[None] = []

    class Watched(StoreReader):
        def read(self, axes: Axes | str) -> Frame:
            frame = super().read(axes)
            read.release()
            return frame

    class Announced(MirrorImage):
        def write(self, *frame: Any) -> None:
            super().write(*frame)
            written.release()

    def overtaken(*arguments: Any, **more: Any) -> FrameFacts:
        begun.append(None)
        # Wait until its own frame and the next one are read; the last frame has no next one.
        for _ in range(2 if len(begun) == 1 else 1 if len(begun) < len(order.keys) else 0):
            assert read.acquire(timeout=60)
        if len(begun) > 1:
            assert written.acquire(timeout=60)
        return refocus_frame(*arguments, **more)

    with (
        mock.patch.object(job, "StoreReader", Watched),
        mock.patch.object(job, "MirrorImage", Announced),
        mock.patch.object(job, "refocus_frame", overtaken),
    ):
        done = JobResult.unpack(refocus_position(order.pack()))
    assert (len(begun), len(done.attempts)) == (12, 12)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_a_worker_keeps_the_memory_that_a_frame_has_left() -> None:
    script = """
import resource, sys
import numpy as np
from refocusd.cluster.job import keep_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(1 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
given_back = faults()
keep_memory()
np.ones(1 << 20, np.uint8)
print(given_back, faults())
"""
    # As Dask starts its workers.
    found = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536"},
        capture_output=True,
        text=True,
        check=True,
    )
    given_back, kept = map(int, found.stdout.split())
    assert given_back > 1000
    assert kept < 300


def test_two_jobs_never_write_one_position(tmp_path: Path) -> None:
    raw, out = prepared(tmp_path)
    order = order_for(raw, out)
    with (
        MirrorImage(out, order.position),
        pytest.raises(OutputError, match="being written by another process"),
    ):
        refocus_position(order.pack())


def test_a_frame_that_cannot_be_read_fails_and_the_others_are_done(tmp_path: Path) -> None:
    raw, out = prepared(tmp_path)
    order = order_for(raw, out)
    (raw / "A" / "1" / "1" / "0" / "c" / "0" / "1" / "2" / "0" / "0").write_bytes(b"junk")
    done = JobResult.unpack(refocus_position(order.pack()))
    (failed,) = [attempt for attempt in done.attempts if attempt.state == "failed"]
    assert json.loads(failed.axes)["z"] == 2
    assert "raw cannot be used" in failed.reason
    assert len(open_dataset(out)) == 11


def test_the_trust_maps_of_jobs_are_one_dataset_at_the_end(tmp_path: Path) -> None:
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    write_plate(raw, levels=1)
    with mock.patch("refocusd.cli.offline.has_slides", return_value=True):  # jobs, in this process
        assert process(raw, place=tmp_path, REFOCUSD_BACKEND="deconvolution") == 0
    with open_dataset(out) as frames, open_dataset(trust_maps_of(out)) as maps:
        assert sorted(maps.axes_keys()) == sorted(frames.axes_keys())
        for key in frames.axes_keys():
            pixels = maps.read(key).pixels
            about = frames.metadata(key)["refocusd"]
            assert pixels.shape == (3 * 8, 4 * 8)
            assert maps.metadata(key)["refocusd"]["verdict"] == about["verdict"]
            assert bool((pixels == AS_ACQUIRED).all()) == (about["written"] == "raw")
    assert not trust_maps_of(out).with_name(PARTS).exists()


def test_the_output_of_a_plate_without_an_ending_is_a_plate(tmp_path: Path) -> None:
    write_plate(tmp_path / "plate", levels=1)
    settings = Settings(backend="identity", ledgers=str(tmp_path / "ledgers"))
    cluster = Cluster(None)
    cluster.start(settings)
    with open_dataset(tmp_path / "plate") as frames:
        output, _ = output_of_run(frames, settings, cluster.run_of, None)
        cluster.refocus(frames, frames.axes_keys(), output)
    assert output.path == tmp_path / "plate_refocused.zarr"
    yaozarrs.validate_zarr_store(str(output.path))


def test_progress_counts_the_frames_that_cannot_be_refocused(tmp_path: Path) -> None:
    raw = tmp_path / "plate.zarr"
    write_plate(raw, fields=["A/1/0", "A/1/1"], levels=1)
    shutil.rmtree(raw / "A/1/1")
    write_image(raw / "A/1/1", dtype="float32", levels=1)
    cluster = Cluster(None)
    cluster.start(settings := Settings(backend="identity", ledgers=str(tmp_path / "ledgers")))
    counted: list[int] = []
    with open_dataset(raw) as frames:
        keys = frames.axes_keys()
        output, _ = output_of_run(frames, settings, cluster.run_of, None)
        cluster.refocus(frames, keys, output, counted.append)
    assert sum(counted) == len(keys) == 24


def test_a_cluster_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="write local, slurm, or the address"):
        connected(ClusterOptions("pbs")).__enter__()
    with (
        mock.patch("refocusd.cluster.scheduler.ANSWER_S", 0.5),
        pytest.raises(TransportError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"),
    ):
        connected(ClusterOptions("tcp://127.0.0.1:9")).__enter__()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"memory": "lots"}, "--job-memory lots: write a size such as 4GB"),
        ({"walltime": "tomorrow"}, "--job-time tomorrow: write H:M:S"),
    ],
)
def test_what_no_job_can_be_given_is_refused_before_any_starts(
    option: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said), connected(ClusterOptions("local", **option)):  # type: ignore[arg-type]
        pass


def test_the_positions_of_a_plate_share_its_blur(tmp_path: Path) -> None:
    raw = benchmark_plate(tmp_path / "plate.zarr", 10, (192, 192), per_field=2)
    settings = Settings(
        backend="deconvolution", threads=1, ledgers=str(tmp_path / "ledgers"), reserve_mib=1
    )
    cluster = Cluster(None)
    cluster.start(settings)
    with open_dataset(raw) as frames:
        output, _ = output_of_run(frames, settings, cluster.run_of, None)
        with cluster.opened(frames, frames.axes_keys(), output) as (_, orders):
            pass
    assert len(orders) == 5
    (shared,) = orders[0].blurs.values()
    assert all(order.blurs == orders[0].blurs for order in orders)
    assert shared.sigma_px == pytest.approx(6.0, rel=0.25)
    results = [JobResult.unpack(refocus_position(order.pack())) for order in orders]
    first = [dict(result.attempts[0].facts or {}) for result in results]
    assert {facts["blur_source"] for facts in first} == {"memory"}
    # Without it, a position begins with its first frame only.
    alone = msgspec.structs.replace(orders[0], blurs={})
    list_path(Path(alone.output), alone.position).unlink()
    facts = dict(JobResult.unpack(refocus_position(alone.pack())).attempts[0].facts or {})
    assert facts["blur_source"] == "frame"
    assert facts["blur_uncertainty"] > first[0]["blur_uncertainty"]


@pytest.mark.parametrize(("worker", "card"), [(3, "1"), ("tcp://10.0.0.5:4567", None)])
def test_workers_of_one_computer_take_its_cards_in_turn(
    monkeypatch: pytest.MonkeyPatch, worker: object, card: str | None
) -> None:
    monkeypatch.setattr(job, "_cards", lambda: 2)
    monkeypatch.setattr(distributed, "get_worker", lambda: SimpleNamespace(name=worker))
    with mock.patch.dict(os.environ):
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        job.choose_device()
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == card


def test_a_dry_run_says_what_it_takes_and_does_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    raw = tmp_path / "plate.zarr"
    write_plate(raw, levels=1)
    before = snapshot(tmp_path)
    figures = tmp_path / "plan.json"
    asked = ("--cluster", "slurm", "--max-jobs", 3, "--dry-run", "--json", figures)
    assert process(raw, *asked, place=tmp_path) == 0
    (plan,) = json.loads(figures.read_text())["plans"]
    assert (plan["jobs"], plan["frames"], plan["workers"]) == (3, 36, 3)
    assert plan["output"] == str(tmp_path / "plate_refocused.zarr")
    assert "3 jobs, 36 frames" in capsys.readouterr().out
    figures.unlink()
    assert snapshot(tmp_path) == before


@pytest.mark.slow
def test_a_plate_on_local_workers_is_refocused_once_and_verified(tmp_path: Path) -> None:
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    pixels = write_plate(raw)
    with receiver() as (url, received):
        asked = (raw, "--cluster", "local", "--max-jobs", 2)
        assert process(*asked, place=tmp_path, REFOCUSD_WEBHOOK=url) == 0
    (alert,) = received
    assert alert["event"] == "processed"
    assert f"{raw}: 36 frames" in alert["text"]
    for field, wanted in pixels.items():
        np.testing.assert_array_equal(zarr.open_array(out / field / "0")[:], wanted)
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    # After one command has done everything, the others have nothing left to do.
    before = snapshot(out)
    assert process(raw, place=tmp_path) == 0
    assert snapshot(out) == before


@contextmanager
def a_cluster(workers: int) -> Iterator[Any]:
    """Run a scheduler with workers that were started by somebody else."""
    with distributed.LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address="127.0.0.1:0", host="127.0.0.1"
    ) as cluster:
        # Dask gives up workers that die while they start; whoever runs a cluster starts others.
        cluster.adapt(minimum=workers, maximum=workers, interval="500ms")
        yield cluster


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL is POSIX")
def test_killed_workers_lose_no_frame_and_do_none_twice(tmp_path: Path) -> None:
    raw, out = tmp_path / "plate.zarr", tmp_path / "plate_refocused.zarr"
    fields = [f"A/{n}/0" for n in range(1, 9)]
    write_plate(raw, fields=fields, levels=1)
    rng = np.random.default_rng(7)
    ended = threading.Event()
    killed: list[int] = []

    def kill(cluster: Any) -> None:
        while not ended.wait(float(rng.uniform(0.01, 0.05))):
            # In the middle: once there are some frames, and before all are done.
            lists = [list_path(out, field) for field in fields]
            lines = sum(len(p.read_bytes().splitlines()) for p in lists if p.exists())
            started = [nanny.process for nanny in cluster.workers.values() if nanny.process]
            # Dask gives up workers that are killed while they start.
            pids = [each.pid for each in started if each.status.name == "running"]
            if pids and lines > 8 * len(killed) and len(killed) < 6:
                victim = pids[int(rng.integers(len(pids)))]
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)

    with a_cluster(2) as cluster:
        killer = threading.Thread(target=kill, args=(cluster,))
        killer.start()
        try:
            status = process(
                *(raw, "--cluster", cluster.scheduler_address),
                place=tmp_path,
                REFOCUSD_BACKEND="deconvolution",
            )
        finally:
            ended.set()
            killer.join()
    assert killed
    assert status == 0
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    with open_dataset(out) as dataset:
        keys = dataset.axes_keys()
    lines = sum(len(list_path(out, field).read_bytes().splitlines()) for field in fields)
    assert len(keys) == lines == 8 * 12


@pytest.mark.slow
@pytest.mark.skipif(bool(missing()), reason=missing() or "SLURM can be started")
def test_a_plate_through_slurm(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue", reason="the extra `cluster` is not installed")
    raw = tmp_path / "plate.zarr"
    write_plate(raw, levels=1)
    batch = tmp_path / "cluster.sh"
    batch.write_text("#!/bin/sh\n#SBATCH --job-name=screen\nexport SCREEN=7\n")
    log = f"--job-option=--output={tmp_path}/slurm-%j.out"
    asked = ("--max-jobs", 1, "--job-memory", "1GB", "--sbatch-file", batch, log)
    with one_node(tmp_path) as conf:
        more = {"SLURM_CONF": str(conf)}
        assert process(raw, "--cluster", "slurm", *asked, place=tmp_path, **more) == 0
    status, said = verify(raw, place=tmp_path)
    assert status == 0, said
    assert list(tmp_path.glob("slurm-*.out"))
    assert not list(Path().glob("slurm-*.out"))
