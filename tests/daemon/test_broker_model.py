"""The broker's state compared with a simple model, in any order of events that hypothesis finds.

`Acquisitions`, `Intake`, `Dispatcher`, `Lifecycle`, `Scheduler` and `WorkerPool` are the real
ones; sources, catch-ups, workers and the writer are simulated (`broker_model.py`), one event at a time,
without sockets.
"""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from broker_model import ENGINE, MAX_FRAMES, PlayedBroker, Reading, Story
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from refocusd.daemon.events import CatchUpFailed, DiskFull
from refocusd.transport import messages as wire

pytestmark = pytest.mark.fast


class BrokerMachine(PlayedBroker, RuleBasedStateMachine):
    """Sources, workers, catch-ups and the writer, in any order."""

    @initialize(
        policy=st.sampled_from(["defer", "complete"]),
        workers=st.integers(1, 3),
        ready=st.booleans(),
    )
    def begin(self, policy: Any, workers: int, ready: bool) -> None:
        self.set_up(policy)
        for _ in range(workers if ready else 0):
            self.worker_joins()

    # -- sources ------------------------------------------------------------------------

    @precondition(lambda self: len(self.active()) < 4 and not self.lifecycle.stopping)
    @rule(side=st.sampled_from([64, 128, 256]), has_raw=st.booleans())
    def source_opens(self, side: int, has_raw: bool) -> None:
        key = str(uuid.UUID(int=next(self.names)))
        raw, output = (str(Path(name).absolute()) for name in ("raw", "out"))
        message = wire.Open(
            key, "n", side, side, "uint16", raw if has_raw else "", output, "{}", report=True
        )
        story = Story(message, self.new_peer("source"))
        self.stories[key] = story
        self.intake.open(story.peer.identity, message, trusted=False)
        assert not story.peer.refused

    @precondition(lambda self: self.active())
    @rule(
        which=st.integers(0, 3),
        frames=st.integers(1, 25),
        saved=st.booleans(),
        on_disk=st.booleans(),
    )
    def frames_go_by(self, which: int, frames: int, saved: bool, on_disk: bool = False) -> None:
        story = self.active()[which % len(self.active())]
        for _ in range(min(frames, MAX_FRAMES - len(story.went_by))):
            axes = json.dumps({"time": len(story.went_by)}, separators=(",", ":"))
            story.went_by.append(axes)
            if story.peer.slots:
                self.submit(story.peer, story, axes, live=True, on_disk=on_disk)
            else:
                story.missed.append(axes)
            # A frame is often submitted before it is in the raw dataset.
            if saved:
                self.save(story)

    @precondition(lambda self: self.active())
    @rule(which=st.integers(0, 3), frame=st.integers(0, MAX_FRAMES))
    def a_frame_is_sent_twice(self, which: int, frame: int) -> None:
        story = self.active()[which % len(self.active())]
        known = set(self.acquisitions._open[story.id].active)
        if not (story.open.raw and self.settings.policy == "defer"):
            # Otherwise a frame that is given up counts twice: see the test below.
            known |= set(self.writer.ledger.get(story.id, ()))
        sent = [axes for axes in story.went_by if axes in known and axes in story.sent]
        if sent and story.peer.slots:
            self.submit(story.peer, story, sent[frame % len(sent)], live=True)

    @precondition(lambda self: self.active())
    @rule(which=st.integers(0, 3))
    def source_tells_what_it_left(self, which: int) -> None:
        self.tell_missed(self.active()[which % len(self.active())])

    def tell_missed(self, story: Story) -> None:
        if not story.peer.opened or not story.missed:
            return
        if story.open.raw:
            behind = wire.Behind(story.id, len(story.missed), len(story.went_by))
            self.intake.behind(story.peer.identity, behind)
        else:
            miss = wire.Miss(story.id, list(story.missed), "skipped", "no raw")
            self.intake.miss(story.peer.identity, miss)
        story.missed.clear()

    @precondition(lambda self: self.active())
    @rule(which=st.integers(0, 3))
    def source_closes(self, which: int) -> None:
        self.close(self.active()[which % len(self.active())])

    def close(self, story: Story) -> None:
        if not story.peer.opened:
            return  # a source waits in this case
        self.save(story)
        self.tell_missed(story)
        story.closed = True
        self.intake.close(story.peer.identity, wire.Close(story.id, len(story.went_by)))
        self.dispatch()

    @precondition(lambda self: self.active())
    @rule(which=st.integers(0, 3), back=st.booleans(), known=st.booleans())
    def source_is_lost(self, which: int, back: bool, known: bool) -> None:
        """A source's process died, or its link broke, and then it may come back."""
        story = self.active()[which % len(self.active())]
        self.save(story)
        old, story.peer = story.peer, self.new_peer("source")
        if known:
            self.intake.lost(old.identity)
        elif not back:
            self.unnoticed.append(old.identity)
        if back and story.ended is None:
            self.intake.open(story.peer.identity, story.open, trusted=False)
        if not back or story.ended or story.peer.refused:
            story.closed = story.hurt = True
        self.dispatch()

    # -- workers ------------------------------------------------------------------------

    @precondition(lambda self: len(self.workers) < 3)
    @rule()
    def worker_joins(self) -> None:
        identity = f"worker-{next(self.names)}".encode()
        self.workers[identity] = []
        self.pool.join(identity, pid=1, inline=False)
        self.pool.set_ready(identity, wire.Ready(ENGINE, 0.1))
        self.lifecycle.engine_ready(ENGINE)
        self.dispatch()

    @precondition(lambda self: self.busy())
    @rule(which=st.lists(st.integers(0, 2), min_size=1, max_size=8), well=st.integers(0, 5))
    def workers_answer(self, which: list[int], well: int) -> None:
        for worker in which:
            if busy := self.busy():
                self.one_answers(busy[worker % len(busy)], well=well > 0)

    @precondition(lambda self: self.busy())
    @rule(which=st.integers(0, 2))
    def a_worker_answers_out_of_order_and_twice(self, which: int) -> None:
        self.one_answers(self.busy()[which % len(self.busy())], at=-1, times=2)

    def one_answers(
        self, identity: bytes, *, well: bool = True, at: int = 0, times: int = 1
    ) -> None:
        number = self.workers[identity].pop(at).task
        self.answered.append((identity, number))
        for _ in range(times):
            self.answer(identity, number, well=well)
        self.dispatch()

    @precondition(lambda self: self.answered)
    @rule(which=st.integers(0, 1000))
    def an_old_answer_comes_again(self, which: int) -> None:
        """Repeat an old answer, as from a worker that counted as dead or over a repeating link."""
        identity, number = self.answered[which % len(self.answered)]
        if identity not in self.workers or all(t.task != number for t in self.workers[identity]):
            assert self.pool.take_back(identity, number) is None

    @precondition(lambda self: self.workers)
    @rule(which=st.integers(0, 2))
    def worker_dies(self, which: int) -> None:
        identity = sorted(self.workers)[which % len(self.workers)]
        held = [message.task for message in self.workers.pop(identity)]
        self.answered += [(identity, number) for number in held]
        holding = [worker.tasks for key, worker in self.pool._workers.items() if key == identity]
        assert [task.number for tasks in holding for task in tasks] == held
        self.dispatcher.lose(identity)
        self.dispatch()

    # -- the writer and the catch-ups ---------------------------------------------------

    @precondition(lambda self: self.reads)
    @rule(frames=st.integers(1, 8), there=st.booleans())
    def saved_frames_are_read(self, frames: int, there: bool) -> None:
        for _ in range(min(frames, len(self.reads))):
            self.saved_frame_read(there=there)
        self.dispatch()

    @precondition(lambda self: self.writer.jobs)
    @rule(jobs=st.integers(1, 8))
    def writer_answers(self, jobs: int) -> None:
        for _ in range(min(jobs, len(self.writer.jobs))):
            has_raw = {key: bool(story.open.raw) for key, story in self.stories.items()}
            for event in self.writer.answer(has_raw):
                self.tell(event)
        self.dispatch()

    @precondition(lambda self: self.active())
    @rule(which=st.integers(0, 3))
    def disk_fills(self, which: int) -> None:
        self.writer.full.add(self.active()[which % len(self.active())].id)

    @precondition(lambda self: self.writer.full)
    @rule(which=st.integers(0, 7))
    def disk_has_room(self, which: int) -> None:
        key = sorted(self.writer.full)[which % len(self.writer.full)]
        self.writer.full.discard(key)
        if key in self.writer.told_full:
            self.writer.told_full.discard(key)
            self.tell(DiskFull(key, full=False))
        self.dispatch()

    @rule()
    def the_clock_ticks(self) -> None:
        """Let some time pass without a live frame."""
        self.lifecycle.last_live = -1e9
        self.lifecycle.tick(workers_idle=self.pool.idle)
        self.dispatch()

    @precondition(lambda self: self.stories)
    @rule(paused=st.booleans())
    def somebody_pauses(self, paused: bool) -> None:
        self.scheduler.paused = paused
        self.dispatch()

    @precondition(lambda self: self.readings)
    @rule(which=st.integers(0, 3), frames=st.integers(1, 10))
    def catch_up_goes_on(self, which: int, frames: int) -> None:
        self.catch_up_step(self.readings[which % len(self.readings)], frames)

    def catch_up_step(self, reading: Reading, frames: int) -> None:
        peer, story = reading.peer, reading.story
        if self.lifecycle.stopping:  # the broker neither opens anything nor reads from raw any more
            self.readings.remove(reading)
            self.tell(CatchUpFailed(story.id, "the daemon is stopping"))
            return
        if not peer.opened:
            self.intake.open(peer.identity, story.open, trusted=True)
        assert peer.opened
        for _ in range(frames):
            if not reading.pending:
                self.readings.remove(reading)
                self.intake.close(peer.identity, wire.Close(story.id, len(reading.keys)))
                break
            if not peer.slots:
                break
            self.submit(peer, story, reading.pending.popleft(), live=False)
        self.dispatch()

    @precondition(lambda self: self.readings)
    @rule(which=st.integers(0, 3))
    def catch_up_fails(self, which: int) -> None:
        reading = self.readings.pop(which % len(self.readings))
        reading.story.hurt = True
        self.tell(CatchUpFailed(reading.story.id, "the disk said no"))
        self.dispatch()

    @precondition(lambda self: self.stories and not self.lifecycle.stopping)
    @rule(sure=st.integers(0, 4))
    def daemon_stops(self, sure: int) -> None:
        if sure:
            return  # rarely, or little else would happen
        for story in self.stories.values():
            story.hurt = story.hurt or story.ended is None
            story.closed = True
        self.lifecycle.stop()
        self.dispatch()

    # -- invariants, and the state at the end -------------------------------------------

    @invariant()
    def the_state_is_right(self) -> None:
        if not hasattr(self, "lifecycle"):
            return
        self.broken = True  # so teardown need not let things settle
        self.every_frame_is_in_one_place()
        self.every_slot_has_one_owner()
        self.lanes_and_workers_are_bounded_and_count_right()
        self.counts_add_up()
        assert max(self.passed_over.values(), default=0) <= 2 * len(self.acquisitions), "starved"
        self.broken = False

    def teardown(self) -> None:
        """Let everything finish: then every frame has a final state, and nothing is held."""
        if not hasattr(self, "lifecycle"):
            return
        try:
            if not self.broken:
                self.settle()
        finally:
            self.ring.close()

    def settle(self) -> None:
        if not self.workers:
            self.worker_joins()
        self.scheduler.paused = False
        while self.writer.full:
            self.disk_has_room(0)
        for identity in self.unnoticed:
            self.intake.lost(identity)
        for _ in range(500):
            self.dispatch()
            for story in self.active():
                self.close(story)
            while self.reads:
                self.saved_frames_are_read(8, there=True)
            while self.writer.jobs:
                self.writer_answers(8)
            for reading in list(self.readings):
                self.catch_up_step(reading, 8)
            while self.busy():
                self.one_answers(self.busy()[0])
            if not self.acquisitions and not self.writer.jobs:
                break
        self.the_state_is_right()
        assert not self.acquisitions, "an acquisition never ends"
        if not self.lifecycle.stopping:
            assert not self.acquisitions._tasks
            assert self.scheduler.free_nbytes == self.total_free
        for story in self.stories.values():
            self.check_end(story)


@pytest.mark.timeout(600)  # in case of failure, shrinking the example takes long
def test_the_state_is_right_whatever_happens_in_whatever_order() -> None:
    machine = settings(
        max_examples=60,
        stateful_step_count=60,
        deadline=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(BrokerMachine, settings=machine)


# -- faults that the machine found -----------------------------------------------------


def _machine(policy: str, *, has_raw: bool, side: int = 256) -> tuple[Any, Story]:
    """A machine with one worker and one open acquisition."""
    machine = BrokerMachine()
    machine.begin(policy=policy, workers=1, ready=True)
    machine.source_opens(side=side, has_raw=has_raw)
    machine.writer_answers(jobs=1)
    (story,) = machine.stories.values()
    return machine, story


def test_a_stop_while_the_disk_is_full_leaves_the_writer_alive() -> None:
    """A frame that is with a worker when its acquisition is forgotten must not be written."""
    machine, story = _machine("complete", has_raw=True)
    machine.frames_go_by(which=0, frames=2, saved=True)
    machine.dispatch()
    machine.disk_fills(which=0)
    machine.one_answers(machine.busy()[0])
    machine.writer_answers(jobs=1)
    assert machine.acquisitions._open[story.id].stalled
    machine.daemon_stops(sure=0)
    machine.one_answers(machine.busy()[0])
    machine.teardown()


def test_a_given_up_frame_that_comes_again_is_still_one_frame() -> None:
    machine, story = _machine("defer", has_raw=True)
    machine.frames_go_by(which=0, frames=4, saved=True)
    given_up = [a for a in story.sent if a not in machine.acquisitions._open[story.id].active]
    assert given_up
    assert story.peer.slots
    machine.submit(story.peer, story, given_up[0], live=True)
    machine.teardown()


def test_a_skipped_frame_that_comes_again_is_still_one_frame() -> None:
    machine, story = _machine("complete", has_raw=False)
    machine.disk_fills(which=0)
    machine.frames_go_by(which=0, frames=1, saved=True)
    machine.dispatch()
    machine.one_answers(machine.busy()[0])
    machine.writer_answers(jobs=1)
    machine.disk_has_room(which=0)
    machine.submit(story.peer, story, story.went_by[0], live=True)
    machine.teardown()


def test_a_done_frame_that_comes_again_and_fails_is_still_done() -> None:
    machine, story = _machine("complete", has_raw=False)
    for well in (True, False):
        machine.submit(story.peer, story, '{"time":0}', live=True)
        machine.dispatch()
        machine.one_answers(machine.busy()[0], well=well)
        machine.writer_answers(jobs=1)
    story.went_by.append('{"time":0}')
    machine.teardown()
