# SPDX-License-Identifier: MIT
"""The pipeline: every output gets every event, nothing waits for a slow one, nothing is lost unsaid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from queue import SimpleQueue
from threading import Event, Thread, current_thread
from threading import enumerate as enumerate_threads
from typing import Any

import pytest

from pyegress import pipeline
from pyegress.errors import InputError, OutputError, UnsupportedError
from pyegress.losses import Losses
from pyegress.pipeline import EXIT_READER_GONE, Pipeline
from pyegress.plugin import Batch, Context, Input, Options, Output
from pyegress.record import Connection

PATIENCE = 30


def connections(count: int, first: int = 0) -> list[Connection]:
    """Connections that are told apart by `ts`."""
    return [
        Connection(
            ts=first + n, hook="fake", protocol="tcp", ip_version=4, dest_ip="192.0.2.1", dest_port=443
        )
        for n in range(count)
    ]


class FakeInput(Input):
    """Gives what `feed` puts, until it is told to stop or `end`; then what is left."""

    name = "fake"
    summary = "for tests"
    Options = Options

    def __init__(self, *batches: Batch, ends: bool = False) -> None:
        self.batches: SimpleQueue[Batch | Exception | None] = SimpleQueue()
        for batch in batches:
            self.batches.put(batch)
        if ends:
            self.end()
        self.calls: list[str] = []
        self.open_error: Exception | None = None
        self.context: Context | None = None

    def feed(self, batch: Batch | Exception) -> None:
        """Let `read` give, or raise, this."""
        self.batches.put(batch)

    def end(self) -> None:
        """Let `read` end."""
        self.batches.put(None)

    def open(self, context: Context) -> None:
        self.calls.append("open")
        self.context = context
        if self.open_error:
            raise self.open_error

    def read(self) -> Iterator[Batch]:
        while (item := self.batches.get(timeout=PATIENCE)) is not None:
            if isinstance(item, Exception):
                raise item
            yield item

    def stop(self) -> None:
        self.end()

    def close(self) -> None:
        self.calls.append("close")

    def refresh_losses(self) -> None:
        assert self.context is not None
        self.context.losses.put("lost", "ring full", 7)


class FakeOutput(Output):
    """Remembers; waits in `write` while `gate` is closed; raises what it is told to."""

    summary = "for tests"
    Options = Options
    name = "fake"

    def __init__(self, name: str = "fake", /, **raises: Exception) -> None:
        self.name = name  # type: ignore[misc]
        self.raises = raises
        self.records: list[Connection] = []
        self.threads: set[Thread] = set()
        self.calls: list[str] = []
        self.gate = Event()
        self.gate.set()
        self.writing, self.flushed, self.reopened = Event(), Event(), Event()

    def called(self, what: str) -> None:
        """Note a call, and fail if this one is to fail."""
        self.threads.add(current_thread())
        self.calls.append(what)
        if what in self.raises:
            raise self.raises[what]

    def open(self, context: Context) -> None:
        self.called("open")

    def write(self, batch: Batch) -> None:
        self.writing.set()
        assert self.gate.wait(PATIENCE)
        self.called("write")
        self.records += batch

    def flush(self) -> None:
        self.called("flush")
        self.flushed.set()

    def reopen(self) -> None:
        self.reopened.set()
        self.called("reopen")

    def close(self) -> None:
        self.called("close")


class Run:
    """A pipeline with its messages; `start` runs it in a thread, `finish` waits for its exit code."""

    def __init__(self, inputs: list[Input], outputs: list[Output], **settings: Any) -> None:
        self.losses = Losses()
        self.said: list[str] = []
        context = Context(losses=self.losses, notice=self.said.append, debug=lambda text: None)
        self.pipeline = Pipeline(inputs, outputs, context, **settings)
        self.codes: SimpleQueue[int] = SimpleQueue()

    def start(self) -> Run:
        """Run in the background."""
        Thread(target=lambda: self.codes.put(self.pipeline.run()), daemon=True).start()
        return self

    def finish(self) -> int:
        """The exit code."""
        return self.codes.get(timeout=PATIENCE)


def test_every_output_gets_every_event_in_order() -> None:
    """Two inputs, two outputs: each output has all, each input's own in order."""
    inputs = [
        FakeInput(connections(3), [], connections(2, 3), ends=True),
        FakeInput(connections(4, 100), ends=True),
    ]
    outputs = [FakeOutput("a"), FakeOutput("b")]
    run = Run([*inputs], [*outputs])
    assert run.pipeline.run() == 0
    for output in outputs:
        stamps = [record.ts for record in output.records]
        assert [ts for ts in stamps if ts < 100] == [0, 1, 2, 3, 4]
        assert [ts for ts in stamps if ts >= 100] == [100, 101, 102, 103]
        assert output.calls[-2:] == ["flush", "close"]
        assert len(output.threads) == 1
    assert run.pipeline.connections == 9
    assert all(source.calls == ["open", "close"] for source in inputs)
    assert not run.said


def test_flushed_while_nothing_is_waiting() -> None:
    """A lone connection becomes visible without a second one."""
    source, output = FakeInput(connections(1)), FakeOutput()
    run = Run([source], [output]).start()
    assert output.flushed.wait(PATIENCE)
    assert len(output.records) == 1
    run.pipeline.stop()
    assert run.finish() == 0


def test_stop_drains() -> None:
    """What was observed before the stop is written."""
    source, output = FakeInput(), FakeOutput()
    ready = Event()
    run = Run([source], [output], on_ready=ready.set).start()
    assert ready.wait(PATIENCE)
    source.feed(connections(5))
    run.pipeline.stop()
    assert run.finish() == 0
    assert len(output.records) == 5


@pytest.mark.parametrize("limit", [1, 3, 4, 7])
def test_limit_is_exact(limit: int) -> None:
    """-C N hands on N records, though a batch or another input holds more."""
    output = FakeOutput()
    inputs: list[Input] = [FakeInput(connections(3), connections(3)), FakeInput(connections(3))]
    run = Run(inputs, [output], limit=limit)
    assert run.pipeline.run() == 0
    assert len(output.records) == run.pipeline.connections == limit


def test_duration_ends_the_run() -> None:
    """-t ends a run that nothing else would."""
    assert Run([FakeInput()], [FakeOutput()], duration_ns=1).pipeline.run() == 0


def test_full_queue_loses_counted_and_spares_the_others() -> None:
    """A stuck output costs itself events, which are counted; neither the input nor its neighbour waits."""
    source, stuck, fine = FakeInput(), FakeOutput("stuck"), FakeOutput("fine")
    stuck.gate.clear()
    run = Run([source], [stuck, fine], queued_records=4).start()
    source.feed(connections(1))
    assert stuck.writing.wait(PATIENCE)
    for n in range(10):
        fine.flushed.clear()
        source.feed(connections(2, 2 * n))
        assert fine.flushed.wait(PATIENCE)
    assert len(fine.records) == 21
    assert run.pipeline.queues() == {"stuck": 4, "fine": 0}
    assert run.pipeline.inputs() == {source.name: ""}
    stuck.gate.set()
    run.pipeline.stop()
    assert run.finish() == 0
    assert run.pipeline.inputs() == {}
    lost = run.losses.snapshot()["lost", "output stuck: queue full"]
    assert lost == 16
    assert len(stuck.records) + lost == 21
    assert ("lost", "output fine: queue full") not in run.losses.snapshot()


def test_batch_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    """The bound is on what piles up, not on one batch."""
    output = FakeOutput()
    assert Run([FakeInput(connections(9), ends=True)], [output], queued_records=4).pipeline.run() == 0
    assert len(output.records) == 9


def test_dead_output_is_said_once_and_the_other_goes_on() -> None:
    """One output fails: one message, the rest written, what it missed counted, exit 1."""
    source = FakeInput()
    dead, fine = FakeOutput("dead", write=OutputError("dead: no space")), FakeOutput("fine")
    run = Run([source], [dead, fine]).start()
    for n in range(3):
        fine.flushed.clear()
        source.feed(connections(1, n))
        assert fine.flushed.wait(PATIENCE)
    run.pipeline.stop()
    assert run.finish() == 1
    assert run.said == ["dead: no space"]
    assert len(fine.records) == 3
    assert run.losses.snapshot()["lost", "output dead: failed"] == 3
    assert dead.calls[-1] == "close"


@pytest.mark.parametrize("when", ["write", "flush", "close"])
def test_all_outputs_dead_is_exit_1(when: str) -> None:
    """With nowhere to write the run ends by itself."""
    source = FakeInput(connections(1), ends=when == "close")
    run = Run([source], [FakeOutput("fake", **{when: OutputError("x: gone")})])
    assert run.pipeline.run() == 1
    assert run.said == ["x: gone"]


@pytest.mark.parametrize("when", ["write", "flush", "close"])
def test_reader_gone_ends_quietly(when: str) -> None:
    """`| head -1`: no message, the status of SIGPIPE, and the other output is finished properly."""
    fine = FakeOutput("fine")
    source = FakeInput(connections(2), ends=when == "close")
    run = Run([source], [FakeOutput("fake", **{when: BrokenPipeError()}), fine])
    assert run.pipeline.run() == EXIT_READER_GONE
    assert run.said == []
    assert len(fine.records) == 2


def test_dead_input_is_exit_1_and_the_other_goes_on() -> None:
    """An input that fails is said; what it gave and what the other gives is written; exit 1."""
    failing, fine, output = FakeInput(connections(1)), FakeInput(), FakeOutput()
    ready, seen = Event(), Event()
    run = Run([failing, fine], [output], on_ready=ready.set)
    run.said = SaidSignals(seen, run.said)
    run.pipeline._context = Context(losses=run.losses, notice=run.said.append, debug=lambda text: None)
    run.start()
    assert ready.wait(PATIENCE)
    failing.feed(InputError("fake: ENETDOWN"))
    assert seen.wait(PATIENCE)
    fine.feed(connections(2, 5))
    run.pipeline.stop()
    assert run.finish() == 1
    assert list(run.said) == ["fake: ENETDOWN"]
    assert len(output.records) == 3
    assert failing.calls[-1] == "close"


class SaidSignals(list[str]):
    """A list that tells when something was appended."""

    def __init__(self, event: Event, start: list[str]) -> None:
        super().__init__(start)
        self.event = event

    def append(self, text: str) -> None:
        super().append(text)
        self.event.set()


def test_bug_in_a_plugin_is_one_line() -> None:
    """An unexpected exception names plugin and type, escaped."""
    run = Run([FakeInput(connections(1), ends=True)], [FakeOutput(write=TypeError("a\nb"))])
    assert run.pipeline.run() == 1
    assert run.said == ["output fake: internal error: TypeError: a\\nb; run with --debug for the traceback"]


def test_input_that_cant_open_fails_the_start() -> None:
    """The error is raised, ready is never said, everything is closed."""
    bad, good, output = FakeInput(), FakeInput(), FakeOutput()
    bad.open_error = UnsupportedError("fake: EPERM")
    ready = Event()
    with pytest.raises(UnsupportedError, match="^fake: EPERM$"):
        Run([bad, good], [output], on_ready=ready.set).pipeline.run()
    assert not ready.is_set()
    assert output.calls[-1] == "close"
    assert good.calls == ["open", "close"]


def test_output_that_cant_open_fails_the_start() -> None:
    """No input is even opened."""
    source = FakeInput()
    with pytest.raises(OutputError, match="^no$"):
        Run([source], [FakeOutput(open=OutputError("no")), FakeOutput()]).pipeline.run()
    assert source.calls == []


def test_ready_that_fails_ends_the_run() -> None:
    """If nobody can be told, the run stops with that error."""

    def fail() -> None:
        raise OutputError("--ready-file: no")

    output = FakeOutput()
    with pytest.raises(OutputError, match="^--ready-file: no$"):
        Run([FakeInput()], [output], on_ready=fail).pipeline.run()
    assert output.calls[-1] == "close"


def test_reopen_runs_in_the_outputs_thread_and_may_fail() -> None:
    """SIGHUP reaches each output in its thread; a failure is said and writing goes on."""
    source, output = FakeInput(), FakeOutput(reopen=OutputError("reopen: EACCES"))
    run = Run([source], [output]).start()
    run.pipeline.reopen_outputs()
    assert output.reopened.wait(PATIENCE)
    source.feed(connections(1))
    run.pipeline.stop()
    assert run.finish() == 0
    assert run.said == ["reopen: EACCES"]
    assert len(output.records) == 1
    assert len(output.threads) == 1


@pytest.mark.parametrize("ended", [True, False])
def test_interrupt_twice_gives_up_and_counts(monkeypatch: pytest.MonkeyPatch, ended: bool) -> None:
    """A stuck output can't keep the program: the second interrupt leaves, and says what was not written."""
    monkeypatch.setattr(pipeline, "GRACE_S", 0.0)
    source, stuck = FakeInput(connections(3), connections(2), ends=ended), FakeOutput("stuck")
    stuck.gate.clear()
    run = Run([source], [stuck]).start()
    assert stuck.writing.wait(PATIENCE)
    run.pipeline.interrupt()
    run.pipeline.interrupt()
    assert run.finish() == 1
    assert run.pipeline.abandoned
    assert run.losses.snapshot()["lost", "output stuck: not written at exit"] == run.pipeline.connections
    stuck.gate.set()


def test_interrupt_once_loses_nothing_where_the_input_ended() -> None:
    """As with `cat LOG | pyegress replay -`, whose ctrl-c ends both: what was read is written, as a normal end."""
    source, output = FakeInput(connections(3), ends=True), FakeOutput()
    is_stopping = Event()
    output.gate.clear()
    run = Run([source], [output], on_stopping=is_stopping.set).start()
    assert output.writing.wait(PATIENCE) and is_stopping.wait(PATIENCE)
    run.pipeline.interrupt()
    heard = Event()
    run.pipeline.call(heard.set)
    assert heard.wait(PATIENCE)  # as it still waits for the output
    output.gate.set()
    assert run.finish() == 0
    assert len(output.records) == 3 and not run.pipeline.abandoned


def test_input_that_hangs_costs_the_outputs_nothing() -> None:
    """Giving up an input that doesn't end still lets the outputs write what they hold at exit."""

    class Deaf(FakeInput):
        def stop(self) -> None:
            self.calls.append("stop")

    source, output = Deaf(connections(2)), FakeOutput()
    run = Run([source], [output]).start()
    assert output.flushed.wait(PATIENCE)
    run.pipeline.interrupt()
    run.pipeline.interrupt()
    assert run.finish() == 1
    assert len(output.records) == 2
    assert output.calls[-1] == "close"
    source.end()


def test_losses_of_the_kernel_are_fetched() -> None:
    """Counters of the input are brought up to date when it ends, and on request while it runs."""
    run = Run([FakeInput()], [FakeOutput()])
    asked: SimpleQueue[int] = SimpleQueue()

    def look() -> None:
        run.pipeline.refresh_losses()
        asked.put(run.losses.total("lost"))

    run.pipeline._on_ready = look
    run.start()
    assert asked.get(timeout=PATIENCE) == 7
    run.pipeline.stop()
    assert run.finish() == 0


def test_call_runs_in_the_thread_of_run() -> None:
    """What another thread posts runs in the one of `run`."""
    threads: SimpleQueue[Thread] = SimpleQueue()
    mine: list[Thread] = []
    run = Run([FakeInput()], [FakeOutput()], on_ready=lambda: mine.append(current_thread())).start()
    call: Callable[[], None] = lambda: threads.put(current_thread())  # noqa: E731
    run.pipeline.call(call)
    caller = threads.get(timeout=PATIENCE)
    run.pipeline.stop()
    assert run.finish() == 0
    assert mine in ([], [caller])


def test_dead_observer_is_no_reason_to_stop() -> None:
    """What only looks on may fail unsaid."""
    output = FakeOutput()
    run = Run(
        [FakeInput(connections(2), ends=True)],
        [output],
        observers=[FakeOutput("stderr", write=BrokenPipeError())],
    )
    assert run.pipeline.run() == 0
    assert run.said == []
    assert len(output.records) == 2


def test_input_that_can_wait_loses_nothing_to_a_full_queue() -> None:
    """A file is read no faster than the slowest output takes it."""

    class File(FakeInput):
        waits = True

    source = File(*(connections(10, first) for first in range(0, 1000, 10)), ends=True)
    sink = FakeOutput()
    run = Run([source], [sink], queued_records=10).start()
    assert run.finish() == 0
    assert [connection.ts for connection in sink.records] == list(range(1000))
    assert run.losses.snapshot() == {("lost", "ring full"): 7}  # which FakeInput says of itself


def test_inputs_that_can_wait_lose_nothing_to_each_other_or_to_a_live_one() -> None:
    """Room that one has waited for may be taken by another before it comes to that."""

    class File(FakeInput):
        waits = True

    sink = FakeOutput()
    sink.gate.clear()
    files = [File(connections(10, first), connections(10, first + 10), ends=True) for first in (0, 100, 200)]
    live = FakeInput(*(connections(10, first) for first in range(1000, 2000, 10)), ends=True)
    run = Run([*files, live], [sink], queued_records=10).start()
    assert sink.writing.wait(PATIENCE)
    sink.gate.set()
    assert run.finish() == 0
    stamps = [connection.ts for connection in sink.records]
    assert [ts for ts in stamps if ts < 20] == list(range(20))
    assert sorted(ts for ts in stamps if ts < 1000) == [*range(20), *range(100, 120), *range(200, 220)]
    lost = run.losses.snapshot().get(("lost", "output fake: queue full"), 0)
    assert len(stamps) + lost == 1060


@pytest.mark.parametrize(
    ("kinds", "waits", "replays"),
    [("R", True, True), ("RR", True, True), ("RF", True, False), ("RL", False, False), ("L", False, False)],
)
def test_outputs_are_told_whether_they_may_wait_and_whose_times_they_get(
    kinds: str, waits: bool, replays: bool
) -> None:
    """Only where all inputs can wait, and all are earlier logs."""

    class File(FakeInput):
        waits = True

    class Replay(File):
        replays = True

    told: list[Context] = []

    class Asking(FakeOutput):
        def open(self, context: Context) -> None:
            told.append(context)

    made = {"R": Replay, "F": File, "L": FakeInput}
    assert Run([made[kind](ends=True) for kind in kinds], [Asking()]).pipeline.run() == 0
    assert [(context.waits, context.replays) for context in told] == [(waits, replays)]


def test_beats_tell_whether_every_input_looks_around() -> None:
    """One that hangs is noticed, though another goes on; so is it when it goes on again."""
    beats: SimpleQueue[bool] = SimpleQueue()
    going = Event()

    class Ticking(FakeInput):
        def read(self) -> Iterator[Batch]:
            while not going.is_set() or self.batches.empty():
                yield []
                beats.get(timeout=PATIENCE)

    class Hanging(FakeInput):
        def read(self) -> Iterator[Batch]:
            while (batch := self.batches.get(timeout=PATIENCE)) is not None:
                assert not isinstance(batch, Exception)
                yield batch

    told: SimpleQueue[bool] = SimpleQueue()

    def beat(is_well: bool) -> None:
        beats.put(is_well)
        told.put(is_well)

    hanging = Hanging()
    ticking = Ticking()
    run = Run([hanging, ticking], [FakeOutput()], on_beat=beat, beat_s=0.01).start()
    while told.get(timeout=PATIENCE):
        pass
    going.set()
    while not told.get(timeout=PATIENCE):
        hanging.feed([])
    hanging.end()
    ticking.end()
    run.pipeline.stop()
    assert run.finish() == 0


def test_inputs_prepared_before_the_outputs_are_open() -> None:
    """Their threads are there before, for the rights that these have; what is done once one is open is done in it."""
    opened: list[str] = []
    stopping: list[str] = []
    source = FakeInput(connections(1), ends=True)
    run = Run(
        [source],
        [FakeOutput()],
        opened=lambda each: opened.append(f"{each.name} {current_thread().name}"),
        on_stopping=lambda: stopping.append("stopping"),
    )
    run.pipeline.prepare()
    assert source.calls == []
    assert run.pipeline.run() == 0
    assert opened == ["fake input fake"]
    assert stopping == ["stopping"]


def test_prepared_input_ends_where_an_output_cannot_be_opened() -> None:
    """It is never opened, and its thread doesn't stay."""
    source = FakeInput()
    run = Run([source], [FakeOutput(open=OutputError("no"))])
    run.pipeline.prepare()
    with pytest.raises(OutputError):
        run.pipeline.run()
    assert source.calls == []
    assert not any(thread.name == "input fake" for thread in enumerate_threads())
