# SPDX-License-Identifier: MIT
"""`pyegress run`: its options, and an audit from start to end."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path
from socket import if_nameindex

import click

from pyegress import chosen, completion, interrupts, kernel, options, priority, privileges, processname, users
from pyegress.announcer import Announcer
from pyegress.chosen import DEFAULT_INPUT, DEFAULT_OUTPUT, Asked
from pyegress.errors import EgressError, OutputError, UnsupportedError, UsageError
from pyegress.escape import display
from pyegress.losses import Losses
from pyegress.messages import Level, say, say_debug, silence_stdout, stage, warn
from pyegress.pipeline import EXIT_READER_GONE, Pipeline
from pyegress.plugin import Context
from pyegress.privileges import READING, WRITING, Capability
from pyegress.program import OWN_PROCESS, list_option, version_option
from pyegress.progressbar import Bar, is_terminal
from pyegress.service import Service
from pyegress.signals import watched
from pyegress.users import User

CAPTURE_ENDINGS = (".pcap", ".pcapng", ".cap", ".gz", ".zst")
CHOSEN = ("skipped: ", "matched: ", "unnamed: ")
"""How lines of Losses begin that tell of no loss."""
Callback = Callable[[click.Context, click.Parameter, str | None], int | None]


def _read_with(read: Callable[[str], int]) -> Callback:
    def callback(_: click.Context, parameter: click.Parameter, text: str | None) -> int | None:
        if text is None:
            return None
        try:
            return read(text)
        except ValueError as error:
            raise UsageError(f"{parameter.opts[0]} {display(text)}: {error}") from None

    return callback


def _count(text: str) -> int:
    count = options.whole_number(text)
    if count < 1:
        raise ValueError("must be at least 1")
    return count


def _span(text: str) -> int:
    span_ns = options.duration(text)
    if span_ns == 0:
        raise ValueError("must be more than 0")
    return span_ns


def _nice(text: str) -> int:
    nice = options.whole_number(text)
    if not priority.LOWEST <= nice <= priority.HIGHEST:
        raise ValueError(f"must be from {priority.LOWEST} to {priority.HIGHEST}")
    return nice


def _open_fd(text: str) -> int:
    fd = options.whole_number(text)
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        raise ValueError("must be an open file descriptor") from None
    return fd


@click.command(
    epilog="Options of plugins: `pyegress list`. Signals: SIGUSR1 says what was counted so far and has rules "
    "written; SIGHUP reopens files, and reads the config file, the policy file and the password file again."
)
@click.option(
    "-c",
    "--config",
    metavar="FILE",
    type=click.Path(),
    help="TOML file with inputs, outputs and filters. What the command line names is added to it; of options that "
    "can be given once, the command line's win. [default: none]",
)
@click.option(
    "-i",
    "inputs",
    metavar="NAME",
    multiple=True,
    shell_complete=completion.inputs,
    help=f"Input to observe; repeatable. [default: {DEFAULT_INPUT}, or what works here]",
)
@click.option(
    "-I",
    "input_options",
    metavar="PLUGIN:KEY:VALUE",
    multiple=True,
    shell_complete=completion.input_options,
    help="Option of an input; repeatable. [default: none]",
)
@click.option(
    "-o",
    "outputs",
    metavar="NAME",
    multiple=True,
    shell_complete=completion.outputs,
    help=f"Output; repeatable. [default: {DEFAULT_OUTPUT}]",
)
@click.option(
    "-O",
    "output_options",
    metavar="PLUGIN:KEY:VALUE",
    multiple=True,
    shell_complete=completion.output_options,
    help="Option of an output; repeatable. [default: none]",
)
@click.option("--ebpf", is_flag=True, help=f"Same as -i {DEFAULT_INPUT}. [default: no]")
@click.option("--nflog", metavar="GROUP", help="Same as -i nflog -I nflog:group:GROUP. [default: none]")
@click.option(
    "--nfqueue",
    metavar="QUEUE",
    help="Same as -i nfqueue -I nfqueue:queue:QUEUE, also 0-3. [default: none]",
)
@click.option(
    "--pcap",
    metavar="DEVICE|FILE",
    type=click.Path(),
    help="Same as -i pcap with -I pcap:device: or -I pcap:file:. [default: none]",
)
@click.option(
    "-C",
    "limit",
    metavar="N",
    callback=_read_with(_count),
    help="Stop after N connections. [default: no limit]",
)
@click.option(
    "-t",
    "duration_ns",
    metavar="DURATION",
    callback=_read_with(_span),
    help="Stop after 90s, 10m, 1h30m. [default: no limit]",
)
@click.option(
    "-R",
    "name",
    metavar="NAME",
    help="Name and arguments that ps, top and pgrep show for this process; not its program file. "
    "[default: its own]",
)
@click.option(
    "--user",
    metavar="NAME",
    help="User to go on as: inputs are opened before, files that are written after. [default: who starts it]",
)
@click.option(
    "--nice",
    metavar="N",
    callback=_read_with(_nice),
    help="Priority where CPUs are busy, -20 (highest) to 19, so that less is lost when all send; 0: as started. "
    f"[default: {priority.DEFAULT}, where that is permitted and it was started with 0]",
)
@click.option(
    "--ready-file",
    type=click.Path(path_type=Path),
    help="File to create once all inputs observe. [default: none]",
)
@click.option(
    "--ready-fd",
    metavar="FD",
    callback=_read_with(_open_fd),
    help="Descriptor to write `ready` to then. [default: none]",
)
@click.option("--debug", "-debug", is_flag=True, help="Say more on stderr, with tracebacks. [default: no]")
@list_option
@version_option
def run(
    config: str | None,
    inputs: tuple[str, ...],
    input_options: tuple[str, ...],
    outputs: tuple[str, ...],
    output_options: tuple[str, ...],
    ebpf: bool,
    nflog: str | None,
    nfqueue: str | None,
    pcap: str | None,
    limit: int | None,
    duration_ns: int | None,
    name: str | None,
    user: str | None,
    nice: int | None,
    ready_file: Path | None,
    ready_fd: int | None,
    debug: bool,
) -> None:
    """Observe connections until stopped (ctrl-c, SIGTERM, -C, -t) and give each to every output.

    What was observed is written before it ends; another ctrl-c gives up what is not written yet, counted.
    """
    is_own_process = click.get_current_context().find_root().obj is OWN_PROCESS
    if is_own_process:  # until they are watched: plugins are imported here
        interrupts.end_quietly()
    asked = Asked(
        inputs=inputs,
        input_options=input_options,
        outputs=outputs,
        output_options=output_options,
        shortcuts=_shortcuts(ebpf, nflog, nfqueue, pcap),
        config=config and str(Path(config).absolute()),
    )
    running = chosen.choose(asked)
    if name is not None:
        processname.rename(name)
    account = _user(user, is_own_process)
    # Before any thread is there, as each has its own, and while there are rights.
    _take_priority(nice, is_own_process, all(source.replays for source in running.sources), debug)
    audit = _Audit(asked, running, limit, duration_ns, debug, is_own_process, account, ready_file)
    raise click.exceptions.Exit(audit.run(lambda: _announce_ready(ready_file, ready_fd)))


class _Audit:
    """What runs, and what signals have it do."""

    def __init__(
        self,
        asked: Asked,
        running: chosen.Chosen,
        limit: int | None,
        duration_ns: int | None,
        debug: bool,
        gives_up_rights: bool,
        user: User | None,
        ready_file: Path | None,
    ) -> None:
        self._gives_up_rights = gives_up_rights
        self._user = user
        self._ready_file = ready_file
        self._service = Service()
        self._is_up = False
        self._asked = asked
        self._running = running
        self._limit = limit
        self._duration_ns = duration_ns
        self._losses = Losses()
        sinks = running.sinks
        is_shared = is_terminal(sys.stdout) and not all(sink.writes_at_end for sink in sinks)
        self._bar = Bar(is_terminal(sys.stderr) and not is_shared)
        self._context = Context(
            self._losses,
            warn,
            say_debug if debug else lambda text: None,
            self._bar.show,
            refresh=lambda: self._pipeline.refresh_losses(),
            queues=lambda: self._pipeline.queues(),
            inputs=lambda: self._pipeline.inputs(),
            stop=lambda: self._pipeline.stop(),
            occupy=stage.occupy,
            remark=say,
            may_change=asked.config is not None,
        )

    def run(self, announce: Callable[[], None]) -> int:
        """The exit code; `announce` is called once all inputs observe."""
        running = self._running

        def ready() -> None:
            names = ", ".join(source.name for source in running.sources)
            does = "replaying" if all(source.replays for source in running.sources) else "observing with"
            say(f"{does} {names}; press ctrl-c to stop")
            announce()
            self._is_up = True
            self._service.ready(self._status)

        is_drawn_on = is_terminal(sys.stderr) and any(sink.draws for sink in running.sinks)
        is_watched = running.loud and not running.has_default_output and not is_drawn_on
        pipeline = self._pipeline = Pipeline(
            running.sources,
            running.sinks,
            self._context,
            observers=[Announcer(running.loud)] if is_watched else [],
            limit=self._limit,
            duration_ns=self._duration_ns,
            on_ready=ready,
            on_stopping=self._stopping,
            opened=lambda source: self._keep_only(source.name, source.capabilities | source.shared),
            on_beat=lambda is_well: self._service.beat(is_well, self._status),
            beat_s=self._service.beat_s if self._service.is_there else None,
        )
        pipeline.prepare()
        self._keep_only("outputs", self._shared())
        actions: dict[int, Callable[[], None]] = {
            signal.SIGINT: pipeline.interrupt,
            signal.SIGTERM: pipeline.stop,
            signal.SIGHUP: self._hang_up,
            signal.SIGUSR1: lambda: pipeline.call(self._count_now),
        }
        with watched(actions), self._bar, stage:
            code = pipeline.run()
        self._summary()
        if pipeline.abandoned:
            # A thread may hold the lock of a stream, which the interpreter would wait for at exit.
            os._exit(code)
        if code == EXIT_READER_GONE:
            silence_stdout()
        return code

    def _shared(self) -> frozenset[Capability]:
        """What all threads but those of inputs keep; outputs open files when they start, and again at SIGHUP."""
        shared = READING.union(*(source.shared for source in self._running.sources))
        shared = shared.union(*(sink.capabilities for sink in self._running.sinks))
        needs_no_more = self._user is not None or privileges.are_ours(self._places())
        return shared if needs_no_more else shared | WRITING

    def _places(self) -> Iterator[str]:
        """Files that are written."""
        if self._ready_file is not None:
            yield str(self._ready_file)
        for plugin in self._running.outputs.values():
            for key in ("file", "textfile", "spool"):
                path = getattr(plugin.options, key, "")
                if path not in ("", "-"):
                    yield f"{path}/1" if key == "spool" else path

    def _keep_only(self, whose: str, kept: Collection[Capability]) -> None:
        """Give up all other rights of this thread."""
        if not self._gives_up_rights:
            return
        try:
            count = privileges.drop(kept, self._user)
        except OSError as error:
            if self._user is not None:  # going on as before is not what was asked for
                what = f"--user {display(self._user.name)}: {error.strerror}"
                raise UnsupportedError(
                    f"{what}; needs CAP_SETUID and CAP_SETGID, or to be started as that user"
                ) from None
            warn(f"capabilities could not be given up: {error.strerror}")
            return
        if count:
            effective = kernel.effective_capabilities()
            left = ", ".join(f"CAP_{each.name}" for each in Capability if effective >> each & 1) or "none"
            self._context.debug(f"{whose}: gave up {count} capabilities; left: {left}")

    @property
    def _status(self) -> str:
        count = self._pipeline.connections
        return f"{count} connection{'' if count == 1 else 's'}"

    def _stopping(self) -> None:
        if self._is_up:
            self._is_up = False
            self._service.stopping()

    def _hang_up(self) -> None:
        self._pipeline.reopen_outputs()
        self._pipeline.call(self._read_again)

    def _read_again(self) -> None:
        if self._is_up:
            self._service.reloading()
        try:
            self._running = chosen.change(self._running, chosen.choose(self._asked), warn)
        except EgressError as error:
            warn(f"{error}; going on as before")
        if self._is_up:
            self._service.ready(self._status)

    def _count_now(self) -> None:
        self._pipeline.refresh_losses()
        self._summary()
        self._pipeline.look_at_outputs()

    def _summary(self) -> None:
        say(self._status)
        for line in self._losses.lines():
            say(line, Level.INFO if line.startswith(CHOSEN) else Level.WARNING)


def _user(name: str | None, is_own_process: bool) -> User | None:
    if name is None:
        return None
    if not is_own_process:
        raise UsageError(f"--user {display(name)}: this process is not pyegress's alone")
    try:
        return users.named(name)
    except UsageError as error:
        raise UsageError(f"--user {display(name)}: {error}") from None


def _take_priority(nice: int | None, is_own_process: bool, replays: bool, debug: bool) -> None:
    """By default not where somebody gave another one on purpose, nor for what is replayed, which can wait."""
    if nice is not None and not is_own_process:
        raise UsageError(f"--nice {nice}: this process is not pyegress's alone")
    if not is_own_process or (nice is None and (replays or os.getpriority(os.PRIO_PROCESS, 0))):
        return
    try:
        priority.take(priority.DEFAULT if nice is None else nice)
    except PermissionError:
        why = "needs CAP_SYS_NICE, or a limit RLIMIT_NICE that permits it (systemd: LimitNICE=)"
        if nice is not None:
            raise UnsupportedError(f"--nice {nice}: {why}") from None
        if debug:
            say_debug(f"no priority of {priority.DEFAULT} where CPUs are busy: that {why}")


def _shortcuts(
    ebpf: bool, nflog: str | None, nfqueue: str | None, pcap: str | None
) -> dict[str, tuple[str, str] | None]:
    """The option that each shortcut stands for, by input."""
    found: dict[str, tuple[str, str] | None] = {}
    if nflog is not None:
        found["nflog"] = ("group", nflog)
    if nfqueue is not None:
        found["nfqueue"] = ("queue", nfqueue)
    if pcap is not None:
        found["pcap"] = ("file" if is_capture_file(pcap) else "device", pcap)
    if ebpf:
        found[DEFAULT_INPUT] = None
    return found


def is_capture_file(text: str) -> bool:
    """Whether it names a file, there or not, rather than a device; no device has a slash in its name."""
    if text == "-" or "/" in text or text.lower().endswith(CAPTURE_ENDINGS):
        return True
    if text in ("any", *(name for _, name in if_nameindex())):
        return False
    with suppress(OSError, ValueError):
        return Path(text).exists()
    return False


def _announce_ready(path: Path | None, fd: int | None) -> None:
    try:
        if path is not None:
            written, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            with os.fdopen(written, "w") as file:
                file.write("ready\n")
            Path(temporary).replace(path)
    except OSError as error:
        raise OutputError(f"--ready-file {display(str(path))}: {error.strerror}") from error
    try:
        if fd is not None:
            os.write(fd, b"ready\n")
            if fd > 2:
                os.close(fd)
    except OSError as error:
        raise OutputError(f"--ready-fd {fd}: {error.strerror}") from error
