# SPDX-License-Identifier: MIT
"""Batches from every input to every output: a thread for each, a bounded queue before each output.

Everything that decides (stop, reopen, an input or output that ended) is posted as a callable to the one
thread that sits in `run`, so that the state needs no lock.
"""

from __future__ import annotations

import enum
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from queue import Empty, SimpleQueue
from threading import Condition, Event, Lock, RLock, Thread

import msgspec

from pyegress.errors import EgressError, shortage
from pyegress.escape import display
from pyegress.plugin import Batch, Context, Input, Output

QUEUED_RECORDS = 131_072
"""Records that may wait for one output: some seconds of a busy host, some tens of MB."""

GRACE_S = 2.0
"""Time for outputs to finish once somebody has given up on an input."""

EXIT_FAILED = 1
EXIT_READER_GONE = 141
"""What a shell reports for a program that SIGPIPE ended."""

Post = Callable[[Callable[[], None]], None]


class Pipeline:
    """Runs inputs and outputs until told to stop; any thread may call the other methods.

    `observers` are outputs that don't keep the run alive: they may die unsaid. `opened` is called in the thread of each
    input that is open. `on_beat` is called every `beat_s`, with whether each input that observes did look around since.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        outputs: Sequence[Output],
        context: Context,
        *,
        observers: Sequence[Output] = (),
        limit: int | None = None,
        duration_ns: int | None = None,
        on_ready: Callable[[], None] = lambda: None,
        on_stopping: Callable[[], None] = lambda: None,
        opened: Callable[[Input], None] = lambda source: None,
        on_beat: Callable[[bool], None] = lambda is_well: None,
        beat_s: float | None = None,
        queued_records: int = QUEUED_RECORDS,
    ) -> None:
        self.connections = 0
        """Connections that were handed on to the outputs."""
        self.abandoned = False
        """The run was given up while threads were still at work."""
        context = self._context = msgspec.structs.replace(
            context,
            waits=all(source.waits for source in inputs),
            replays=all(source.replays for source in inputs),
        )
        self._limit = limit
        self._duration_ns = duration_ns
        self._on_ready = on_ready
        self._on_stopping = on_stopping
        self._on_beat = on_beat
        self._beat_s = beat_s
        self._next_beat = time.monotonic() + beat_s if beat_s else None
        self._mail: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._hand_on_lock = Lock()
        self._feeds = [
            _Feed(i, context, self._hand_on, self._mail.put, self._feed_changed, opened) for i in inputs
        ]
        self._lanes = [_Lane(o, context, queued_records, self._mail.put, self._lane_changed) for o in outputs]
        self._side = [_Lane(o, context, queued_records, self._mail.put, lambda lane: None) for o in observers]
        self._deadline: float | None = None
        self._ready = False
        self._stopping = False
        self._was_asked = False
        self._give_up = False
        self._start_error: Exception | None = None
        self._exit_code = 0

    def prepare(self) -> None:
        """Start the inputs' threads, which wait for `run`: they have rights that this thread may give up after it."""
        for feed in self._feeds:
            feed.prepare()

    def run(self) -> int:
        """The exit code; raises the error of a plugin that can't be opened, with everything closed again."""
        lanes = [*self._lanes, *self._side]
        for lane in lanes:
            lane.start()
        self._serve(lambda: all(lane.state is not _State.OPENING for lane in lanes))
        if not self._stopping:
            for feed in self._feeds:
                feed.start()
            self._serve(lambda: all(feed.state is _State.ENDED for feed in self._feeds))
        self._begin_stopping()
        self._deadline = None
        if self._give_up:  # an input that hangs must not cost the outputs what they hold
            self._give_up = False
            self._deadline = time.monotonic() + GRACE_S
        for lane in lanes:
            lane.finish()
        self._serve(lambda: all(lane.state is _State.ENDED for lane in lanes))
        if self.abandoned:
            for lane in lanes:
                lane.abandon()
        else:
            # A daemon thread that is still on its way out can hang the interpreter when that ends.
            for feed in self._feeds:
                feed.cancel()
                feed.join()
            for lane in lanes:
                lane.join()
        if self._start_error is not None:
            raise self._start_error
        return self._exit_code

    def stop(self) -> None:
        """Stop observing, write what was observed, end."""
        self._mail.put(self._stop_as_asked)

    def interrupt(self) -> None:
        """Stop, or where somebody asked for that already, give up what it waits for.

        That inputs ended, or a limit was reached, is nobody's asking: ctrl-c ends a `cat` before us, too.
        """
        self._mail.put(self._interrupt)

    def reopen_outputs(self) -> None:
        """Have each output reopen its files in its own thread."""
        self._mail.put(self._reopen)

    def look_at_outputs(self) -> None:
        """Have each output that writes at the end write what it would write now."""
        self._mail.put(self._look)

    def call(self, function: Callable[[], None]) -> None:
        """Have the thread in `run` call a function."""
        self._mail.put(function)

    def refresh_losses(self) -> None:
        """Bring counters that the kernel keeps up to date in the Losses."""
        for feed in self._feeds:
            feed.refresh_losses()

    def queues(self) -> dict[str, int]:
        """Records that wait for each output by its name."""
        return {lane.output.name: lane.waiting for lane in self._lanes}

    def inputs(self) -> dict[str, str]:
        """The kind of hooks of each input that observes, by its name."""
        return {feed.input.name: feed.input.hooks for feed in self._feeds if feed.state is _State.OPEN}

    def _serve(self, done: Callable[[], bool]) -> None:
        while not (done() or self._give_up):
            due = [at for at in (self._deadline, self._next_beat) if at is not None]
            try:
                self._mail.get(timeout=max(0.0, min(due) - time.monotonic()) if due else None)()
            except Empty:
                if self._deadline is not None and time.monotonic() >= self._deadline:
                    (self._leave if self._stopping else self._stop)()
            self._beat()

    def _beat(self) -> None:
        if self._next_beat is None or self._beat_s is None or time.monotonic() < self._next_beat:
            return
        self._next_beat = time.monotonic() + self._beat_s
        idle = [feed for feed in self._feeds if not feed.looked_around()]
        self._on_beat(not idle)

    def _reopen(self) -> None:
        for lane in self._lanes:
            lane.reopen()

    def _look(self) -> None:
        for lane in self._lanes:
            lane.look()

    def _begin_stopping(self) -> None:
        if not self._stopping:
            self._stopping = True
            self._on_stopping()

    def _stop(self) -> None:
        self._begin_stopping()
        self._deadline = None
        for feed in self._feeds:
            feed.stop()

    def _stop_as_asked(self) -> None:
        self._was_asked = True
        self._stop()

    def _interrupt(self) -> None:
        if self._was_asked:
            self._leave()
        else:
            self._stop_as_asked()

    def _leave(self) -> None:
        self._give_up = self.abandoned = True
        self._exit_code = EXIT_FAILED

    def _hand_on(self, batch: Batch, waits: bool) -> None:
        for lane in (*self._lanes, *self._side) if waits else ():
            lane.await_room(len(batch))
        with self._hand_on_lock:
            if self._limit is not None:
                room = self._limit - self.connections
                if len(batch) >= room:
                    self._mail.put(self._stop)
                    batch = batch[:room]
            self.connections += len(batch)
            if batch:
                for lane in (*self._lanes, *self._side):
                    lane.offer(batch, waits)

    def _feed_changed(self, feed: _Feed) -> None:
        if feed.error is not None:
            if not feed.was_open and self._start_error is None:
                self._start_error = feed.error
                self._stop()
            else:
                self._said("input", feed.input.name, feed.error)
            self._exit_code = self._exit_code or EXIT_FAILED
        elif not self._ready and not self._stopping and all(feed.was_open for feed in self._feeds):
            self._become_ready()

    def _become_ready(self) -> None:
        self._ready = True
        if self._duration_ns is not None:
            self._deadline = time.monotonic() + self._duration_ns / 1e9
        try:
            self._on_ready()
        except EgressError as error:
            self._start_error = error
            self._stop()

    def _lane_changed(self, lane: _Lane) -> None:
        if lane.error is None:
            return
        if isinstance(lane.error, BrokenPipeError):
            self._exit_code = EXIT_READER_GONE
            self._stop()
            return
        if not lane.was_open and self._start_error is None:
            self._start_error = lane.error
        else:
            self._said("output", lane.output.name, lane.error)
        # An output that fails stops nobody else, but must show in the exit code.
        self._exit_code = self._exit_code or EXIT_FAILED
        all_failed = all(other.error is not None for other in self._lanes)
        if all_failed or self._start_error is not None:
            self._stop()

    def _said(self, kind: str, name: str, error: Exception) -> None:
        if isinstance(error, EgressError):
            self._context.notice(str(error))
        elif (lacking := shortage(error)) is not None:
            self._context.notice(f"{kind} {name}: {lacking}")
        elif isinstance(error, OSError):
            self._context.notice(f"{kind} {name}: {display(str(error.strerror or error))}")
        else:
            what = f"{type(error).__name__}: {display(str(error))}"
            self._context.notice(f"{kind} {name}: internal error: {what}; run with --debug for the traceback")
        self._context.debug("".join(traceback.format_exception(error)).rstrip())


class _State(enum.Enum):
    OPENING = enum.auto()
    OPEN = enum.auto()
    ENDED = enum.auto()


class _Feed:
    """An input in its thread. `state`, `was_open`, `error` change in the thread of `run` alone."""

    def __init__(
        self,
        source: Input,
        context: Context,
        hand_on: Callable[[Batch, bool], None],
        post: Post,
        changed: Callable[[_Feed], None],
        opened: Callable[[Input], None],
    ) -> None:
        self.input = source
        self.state = _State.OPENING
        self.was_open = False
        self.error: Exception | None = None
        self._context = context
        self._hand_on = hand_on
        self._post = post
        self._changed = changed
        self._opened = opened
        self._looks = self._looks_before = 0
        self._thread = Thread(target=self._await_start, name=f"input {source.name}", daemon=True)
        self._may_start = Event()
        self._cancelled = False
        self._asked_to_stop = False
        # Held while the input closes, so that its counters are not read from what is being freed.
        self._usable = False
        self._usable_lock = Lock()

    def prepare(self) -> None:
        self._thread.start()

    def start(self) -> None:
        if self._thread.ident is None:
            self._thread.start()
        self._may_start.set()

    def cancel(self) -> None:
        """Have the thread end if it was never to start."""
        self._cancelled = not self._may_start.is_set()
        self._may_start.set()

    def looked_around(self) -> bool:
        """Whether it did since the last call; one that is not open, or waits for what it reads, needn't."""
        looks, before = self._looks, self._looks_before
        self._looks_before = looks
        return self.state is not _State.OPEN or self.input.waits or looks != before

    def stop(self) -> None:
        self._asked_to_stop = True
        if self.state is _State.OPEN:
            self.input.stop()

    def join(self) -> None:
        if self._thread.ident is not None:
            self._thread.join()

    def refresh_losses(self) -> None:
        with self._usable_lock:
            if self._usable:
                self.input.refresh_losses()

    def _await_start(self) -> None:
        self._may_start.wait()
        if not self._cancelled:
            self._run()

    def _run(self) -> None:
        error: Exception | None = None
        try:
            self.input.open(self._context)
            self._opened(self.input)
            self._usable = True
            self._post(partial(self._become, _State.OPEN, None))
            for batch in self.input.read():
                self._looks += 1
                if batch:
                    self._hand_on(batch, self.input.waits)
        except Exception as raised:
            error = raised
        try:
            self.refresh_losses()
            with self._usable_lock:
                self._usable = False
                self.input.close()
        except Exception as raised:
            error = error or raised
        self._post(partial(self._become, _State.ENDED, error))

    def _become(self, state: _State, error: Exception | None) -> None:
        self.state = state
        self.error = error
        if state is _State.OPEN:
            self.was_open = True
            if self._asked_to_stop:
                self.input.stop()
        self._changed(self)


class _Due(enum.Enum):
    REOPEN = enum.auto()
    LOOK = enum.auto()
    FLUSH = enum.auto()
    FINISH = enum.auto()


class _Lane:
    """An output in its thread, with its queue; state, was_open, error change in `run`'s thread alone."""

    def __init__(
        self,
        output: Output,
        context: Context,
        capacity: int,
        post: Post,
        changed: Callable[[_Lane], None],
    ) -> None:
        self.output = output
        self.state = _State.OPENING
        self.was_open = False
        self.error: Exception | None = None
        self._context = context
        self._capacity = capacity
        self._post = post
        self._changed = changed
        self._thread = Thread(target=self._run, name=f"output {output.name}", daemon=True)
        lock = RLock()
        self._changes = Condition(lock)
        self._room = Condition(lock)
        self._batches: deque[Batch | _Due] = deque()
        self._waiting = 0
        self._in_hand = 0
        self._unflushed = False
        self._reopen_due = False
        self._finishing = False
        self._dead = False

    def start(self) -> None:
        self._thread.start()

    def offer(self, batch: Batch, has_waited: bool) -> None:
        """Queue a batch, or count it as lost unless it has waited for room; never waits for the output."""
        with self._changes:
            if self._dead:
                self._lose(len(batch), "failed")
            elif not has_waited and self._waiting and self._waiting + len(batch) > self._capacity:
                self._lose(len(batch), "queue full")
            else:
                self._batches.append(batch)
                self._waiting += len(batch)
                self._changes.notify()

    def await_room(self, records: int) -> None:
        """Wait until that many would not be lost, or none ever can be taken."""
        with self._changes:
            self._room.wait_for(
                lambda: self._dead or not self._waiting or self._waiting + records <= self._capacity
            )

    def reopen(self) -> None:
        with self._changes:
            self._reopen_due = True
            self._changes.notify()

    def look(self) -> None:
        """After what waits now, which was seen before somebody wanted to look."""
        with self._changes:
            if not self._dead and _Due.LOOK not in self._batches:
                self._batches.append(_Due.LOOK)
                self._changes.notify()

    def finish(self) -> None:
        with self._changes:
            self._finishing = True
            self._changes.notify()

    @property
    def waiting(self) -> int:
        """Records in the queue."""
        return self._waiting

    def join(self) -> None:
        self._thread.join()

    def abandon(self) -> None:
        """Count what the output has not taken."""
        with self._changes:
            self._dead = True
            self._lose(self._waiting + self._in_hand, "not written at exit")
            self._waiting = self._in_hand = 0
            self._batches.clear()

    def _lose(self, count: int, why: str) -> None:
        self._context.losses.add("lost", f"output {self.output.name}: {why}", count)

    def _run(self) -> None:
        error: Exception | None = None
        try:
            self.output.open(self._context)
            self._post(partial(self._become, _State.OPEN, None))
            self._work()
        except Exception as raised:
            error = raised
            self._die()
        try:
            self.output.close()
        except Exception as raised:
            error = error or raised
        self._post(partial(self._become, _State.ENDED, error))

    def _work(self) -> None:
        while (due := self._next()) is not _Due.FINISH:
            if due is _Due.REOPEN:
                self._try(self.output.reopen)
            elif due is _Due.LOOK:
                self._try(self.output.look)
            elif due is _Due.FLUSH:
                self.output.flush()
            else:
                self.output.write(due)

    def _next(self) -> Batch | _Due:
        with self._changes:
            self._in_hand = 0
            while True:
                if self._reopen_due:
                    self._reopen_due = False
                    return _Due.REOPEN
                if self._batches:
                    batch = self._batches.popleft()
                    if isinstance(batch, _Due):
                        return batch
                    self._in_hand = len(batch)
                    self._waiting -= len(batch)
                    self._room.notify_all()
                    self._unflushed = True
                    return batch
                if self._unflushed:
                    self._unflushed = False
                    return _Due.FLUSH
                if self._finishing:
                    self._dead = True
                    return _Due.FINISH
                self._changes.wait()

    def _try(self, action: Callable[[], None]) -> None:
        """Something that may fail without an end: the output has what it had."""
        try:
            action()
        except EgressError as error:
            self._context.notice(str(error))

    def _die(self) -> None:
        with self._changes:
            self._dead = True
            self._lose(self._waiting + self._in_hand, "failed")
            self._waiting = self._in_hand = 0
            self._batches.clear()
            self._room.notify_all()

    def _become(self, state: _State, error: Exception | None) -> None:
        self.state = state
        self.error = error
        self.was_open = self.was_open or state is _State.OPEN
        self._changed(self)
