# SPDX-License-Identifier: MIT
"""The command line: flags in, wiring, signals, messages, exit codes. Nothing else says or exits."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import if_nameindex
from threading import Thread
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TextIO

import click

from pyegress import __version__, apply_command, options, registry, rules_command
from pyegress.errors import EgressError, OutputError, UsageError, nearest
from pyegress.escape import display
from pyegress.losses import Losses
from pyegress.pipeline import EXIT_FAILED, EXIT_READER_GONE, Pipeline
from pyegress.plugin import Batch, Context, Input, Options, Output
from pyegress.record import Connection

if TYPE_CHECKING:
    from rich.progress import Progress

BAR_AFTER_S = 1.0
CAPTURE_ENDINGS = (".pcap", ".pcapng", ".cap", ".gz", ".zst")
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
DEFAULT_INPUT = "ebpf"
DEFAULT_OUTPUT = "text"

Given = dict[str, list[tuple[str, str]]]
"""(key, value) pairs by plugin."""
Callback = Callable[[click.Context, click.Parameter, str | None], int | None]


def _say(text: str) -> None:
    """One line on stderr; the text must already be escaped. A stderr that is gone is no reason to stop."""
    with suppress(OSError, ValueError):
        click.echo(f"{_Bar.erase}pyegress: {text}", err=True)


def _print(text: str) -> None:
    """Text on stdout, where a failure is not silent."""
    if sys.stdout is None:
        raise OutputError("standard output: closed")
    try:
        click.echo(text, nl=False)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _silence_stdout()
        raise OutputError(f"standard output: {error.strerror}") from error


def _silence_stdout() -> None:
    """Keep the interpreter from failing once more when it flushes stdout at exit."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Program(click.Group):
    """A group whose options are those of `run`, and whose every error is one line on stderr."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0].startswith("-") and args[0] not in own:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            raise UsageError(f"no such command '{display(args[0])}'; {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        _guard_standard_fds()
        arguments = extra.get("args") or (args[0] if args else None) or sys.argv[1:]
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            code = EXIT_USAGE
        except click.UsageError as error:
            _say(_usage_text(error))
            code = EXIT_USAGE
        except EgressError as error:
            _say(str(error))
            code = error.exit_code
        except (KeyboardInterrupt, click.Abort):
            code = EXIT_INTERRUPTED
        except BrokenPipeError:
            _silence_stdout()
            code = EXIT_READER_GONE
        except Exception as error:
            if "--debug" in arguments or "-debug" in arguments:
                traceback.print_exc()
            what = f"{type(error).__name__}: {display(str(error))}"
            _say(f"internal error: {what}; run with --debug for the traceback")
            code = EXIT_FAILED
        sys.exit(code or 0)


def _guard_standard_fds() -> None:
    """Occupy descriptors 0 to 2, so that nothing opened later becomes somebody's standard output by accident.

    A closed stdout is occupied read-only: writing to it still fails, with EBADF.
    """
    for fd, mode in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)  # the lowest free number, which is `fd`


def _usage_text(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption):
        known = sorted({name for p in error.ctx.command.params for name in p.opts} if error.ctx else [])
        return f"no such option '{display(error.option_name)}'; {nearest(error.option_name, known)}"
    text = display(" ".join(error.format_message().split())).rstrip(".")
    return text[:1].lower() + text[1:]


def _show_list(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        _list()
        ctx.exit()


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        _print(f"pyegress {__version__}\n")
        ctx.exit()


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


def _open_fd(text: str) -> int:
    fd = options.whole_number(text)
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        raise ValueError("must be an open file descriptor") from None
    return fd


_list_option = click.option(
    "-l",
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_list,
    help="List plugins and exit.",
)
_version_option = click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version.",
)


@click.group(
    cls=_Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Options without a command are those of `run`: `pyegress -i ebpf -o logfmt`.",
)
@_list_option
@_version_option
def program() -> None:
    """Audit of this host's outbound connections."""


@program.command()
@click.option("-i", "inputs", metavar="NAME", multiple=True, help="Input to observe; repeatable.")
@click.option(
    "-I", "input_options", metavar="PLUGIN:KEY:VALUE", multiple=True, help="Option of an input; repeatable."
)
@click.option(
    "-o", "outputs", metavar="NAME", multiple=True, help=f"Output; repeatable. [default: {DEFAULT_OUTPUT}]"
)
@click.option(
    "-O", "output_options", metavar="PLUGIN:KEY:VALUE", multiple=True, help="Option of an output; repeatable."
)
@click.option("--ebpf", is_flag=True, help=f"Same as -i {DEFAULT_INPUT}, the input if none is named.")
@click.option("--nflog", metavar="GROUP", help="Same as -i nflog -I nflog:group:GROUP.")
@click.option("--nfqueue", metavar="QUEUE", help="Same as -i nfqueue -I nfqueue:queue:QUEUE, also 0-3.")
@click.option("--pcap", metavar="DEVICE|FILE", help="Same as -i pcap with -I pcap:device: or -I pcap:file:.")
@click.option("-C", "limit", metavar="N", callback=_read_with(_count), help="Stop after N connections.")
@click.option(
    "-t", "duration_ns", metavar="DURATION", callback=_read_with(_span), help="Stop after 90s, 10m, 1h30m."
)
@click.option("--ready-file", type=click.Path(path_type=Path), help="File to create once all inputs observe.")
@click.option(
    "--ready-fd", metavar="FD", callback=_read_with(_open_fd), help="Descriptor to write `ready` to then."
)
@click.option("--debug", "-debug", is_flag=True, help="Say more on stderr, with tracebacks.")
@_list_option
@_version_option
def run(
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
    ready_file: Path | None,
    ready_fd: int | None,
    debug: bool,
) -> None:
    """Observe connections until stopped (ctrl-c, SIGTERM, -C, -t) and give each to every output.

    SIGUSR1 says what was counted so far and has rules written, SIGHUP reopens files.

    Options of plugins: `pyegress list`.
    """
    shortcuts = _shortcuts(nflog, nfqueue, pcap)
    input_names = [*inputs, *(name for name in shortcuts if name not in inputs)]
    if DEFAULT_INPUT not in input_names and (ebpf or not input_names):
        input_names.append(DEFAULT_INPUT)
    output_names = list(outputs) or [DEFAULT_OUTPUT]
    given_inputs = _given("-I", "input", "-i", input_options, input_names)
    for name, option in shortcuts.items():
        given_inputs[name].append(option)
    given_outputs = _given("-O", "output", "-o", output_options, output_names)
    sources, loud = _inputs(input_names, given_inputs)
    sinks = _outputs(output_names, given_outputs)
    is_shared = _is_terminal(sys.stdout) and not all(sink.writes_at_end for sink in sinks)
    bar = _Bar(_is_terminal(sys.stderr) and not is_shared)
    context = Context(
        Losses(),
        _say,
        _debug_line if debug else _discard,
        bar.show,
        refresh=lambda: pipeline.refresh_losses(),
        queues=lambda: pipeline.queues(),
    )

    def ready() -> None:
        _say(f"observing with {', '.join(input_names)}; press ctrl-c to stop")
        _announce_ready(ready_file, ready_fd)

    pipeline = Pipeline(
        sources,
        sinks,
        context,
        observers=[_Announcer(loud)] if outputs and loud else [],
        limit=limit,
        duration_ns=duration_ns,
        on_ready=ready,
    )
    with _signals(pipeline, context.losses), bar:
        code = pipeline.run()
    _summary(pipeline, context.losses)
    if pipeline.abandoned:
        # A thread may hold the lock of a stream, which the interpreter would wait for at exit.
        os._exit(code)
    if code == EXIT_READER_GONE:
        _silence_stdout()
    raise click.exceptions.Exit(code)


@program.command("list")
def list_plugins() -> None:
    """List inputs and outputs with their options (same as -l)."""
    _list()


@program.command("rules-for")
@click.argument("what", metavar="nflog|nfqueue", type=click.Choice(["nflog", "nfqueue"]))
@click.option("--group", metavar="N", default="0", help="Group of nflog. [default: 0]")
@click.option("--queue", metavar="N|N-M", default="0", help="Queue of nfqueue, or a range. [default: 0]")
@click.option(
    "--firewall",
    type=click.Choice(["iptables", "nft"]),
    default="iptables",
    help="Whose rules. [default: iptables]",
)
@click.option("--no-bypass", is_flag=True, help="nfqueue: drop new connections while pyegress doesn't run.")
def rules_for(what: str, group: str, queue: str, firewall: str, no_bypass: bool) -> None:
    """Print firewall rules that hand new connections to an input; nothing is changed."""
    from pyegress import setup_rules

    _print(setup_rules.text(what, firewall, group=group, queue=queue, bypass=not no_bypass))


@program.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of the lines that the json output writes."""
    import msgspec

    from pyegress.logs import jsonl

    _print(msgspec.json.format(msgspec.json.encode(jsonl.schema())).decode() + "\n")


@program.command()
def doctor() -> None:
    """Say what this host allows, and what is missing."""
    from pyegress.doctor import report

    lines, fine = report()
    _print("".join(f"{line}\n" for line in lines))
    raise click.exceptions.Exit(0 if fine else EXIT_FAILED)


program.add_command(apply_command.command(_say))
program.add_command(rules_command.command(_say, _print))


def _list() -> None:
    from pyegress import listing

    _print(listing.text())


def _shortcuts(nflog: str | None, nfqueue: str | None, pcap: str | None) -> dict[str, tuple[str, str]]:
    """The option that each shortcut stands for, by input."""
    found = {}
    if nflog is not None:
        found["nflog"] = ("group", nflog)
    if nfqueue is not None:
        found["nfqueue"] = ("queue", nfqueue)
    if pcap is not None:
        found["pcap"] = ("file" if is_capture_file(pcap) else "device", pcap)
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


def _given(flag: str, kind: str, use_flag: str, texts: Sequence[str], used: Sequence[str]) -> Given:
    """Options by plugin; each plugin must be in use, or the option would be ignored unsaid."""
    given: Given = {name: [] for name in used}
    for text in texts:
        plugin, _, rest = text.partition(":")
        key, separator, value = rest.partition(":")
        if not (plugin and key and separator):
            raise UsageError(f"{flag} {display(text)}: must be PLUGIN:KEY:VALUE")
        if plugin not in given:
            (registry.input_named if kind == "input" else registry.output_named)(plugin)
            known = f"add {use_flag} {display(plugin)}"
            raise UsageError(f"{flag} {display(plugin)}:{display(key)}: {kind} is not in use; {known}")
        given[plugin].append((key, value))
    for name in used:
        if used.count(name) > 1:
            raise UsageError(f"{use_flag} {display(name)}: given twice")
    return given


def _inputs(names: Sequence[str], given: Given) -> tuple[list[Input], frozenset[str]]:
    """The inputs, and the names of those that are not quiet."""
    made, loud = [], set()
    for name in names:
        plugin = registry.input_named(name)
        chosen: Options = options.parse("-I", name, plugin.Options, given[name])
        made.append(plugin(chosen))
        if not getattr(chosen, "quiet", False):
            loud.add(name)
    return made, frozenset(loud)


def _outputs(names: Sequence[str], given: Given) -> list[Output]:
    made = []
    for name in names:
        plugin = registry.output_named(name)
        made.append(plugin(options.parse("-O", name, plugin.Options, given[name])))
    return made


class _Announcer(Output):
    """Upstream's line per connection, on stderr, for the inputs that are not quiet."""

    name: ClassVar[str] = "stderr"
    summary: ClassVar[str] = "one line per connection on stderr"
    Options: ClassVar[type[Options]] = Options

    def __init__(self, loud: frozenset[str]) -> None:
        from pyegress.outputs.text import upstream_line

        self._loud = loud
        self._line: Callable[[Connection], str] = upstream_line

    def open(self, context: Context) -> None:
        pass

    def write(self, batch: Batch) -> None:
        lines = [f"{self._line(connection)}\n" for connection in batch if connection.hook in self._loud]
        if lines:
            click.echo(f"{_Bar.erase}{''.join(lines)}", nl=False, err=True)

    def close(self) -> None:
        pass


def _is_terminal(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed and stream.isatty()


class _Bar:
    """A progress bar on stderr, for what takes long; there is one, and `show` is for one thread."""

    erase: ClassVar[str] = ""
    """What has to come before other text on stderr: the bar is drawn anew below that.

    rich would do it for those who write to sys.stderr, which click goes round where the locale is not UTF-8.
    """

    def __init__(self, wanted: bool) -> None:
        self._wanted = wanted
        self._due = time.monotonic() + BAR_AFTER_S
        self._progress: Progress | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        self._end()

    def show(self, done: int, total: int | None) -> None:
        """Say how much is done; after all of it the bar is gone."""
        if total is not None and done >= total:
            self._end()
            return
        if self._progress is None:
            if not self._wanted or time.monotonic() < self._due:
                return
            self._begin(total)
        if self._progress is not None:
            self._progress.update(self._progress.task_ids[0], completed=done, total=total)

    def _begin(self, total: int | None) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._wanted = not console.is_dumb_terminal
        if self._wanted:
            self._progress = Progress(
                console=console, transient=True, redirect_stdout=False, redirect_stderr=False
            )
            self._progress.add_task("reading", total=total)
            self._progress.start()
            _Bar.erase = "\r\x1b[2K"

    def _end(self) -> None:
        self._wanted = False
        if self._progress is not None:
            _Bar.erase = ""
            self._progress.stop()
            self._progress = None


def _debug_line(text: str) -> None:
    _say(f"debug: {text}")


def _discard(text: str) -> None:
    pass


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


def _summary(pipeline: Pipeline, losses: Losses) -> None:
    count = pipeline.connections
    _say(f"{count} connection{'' if count == 1 else 's'}")
    for line in losses.lines():
        _say(line)


@contextmanager
def _signals(pipeline: Pipeline, losses: Losses) -> Iterator[None]:
    """Signals as messages to the pipeline.

    A Python handler runs once the main thread gets around to it; a signal that another thread took, or that
    came just before the main thread began to wait, would stay unheard. The wakeup descriptor has no such gap.
    """

    def count_now() -> None:
        pipeline.refresh_losses()
        _summary(pipeline, losses)
        pipeline.look_at_outputs()

    actions: dict[int, Callable[[], None]] = {
        signal.SIGINT: pipeline.interrupt,
        signal.SIGTERM: pipeline.stop,
        signal.SIGHUP: pipeline.reopen_outputs,
        signal.SIGUSR1: lambda: pipeline.call(count_now),
    }
    reading, writing = os.pipe2(os.O_CLOEXEC)
    os.set_blocking(writing, False)

    def watch() -> None:
        while numbers := os.read(reading, 64):
            for number in numbers:
                actions.get(number, lambda: None)()

    watcher = Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    wakeup_before = signal.set_wakeup_fd(writing)
    before = {number: signal.signal(number, lambda *_: None) for number in actions}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(wakeup_before)
        os.close(writing)
        watcher.join()
        os.close(reading)


def main() -> None:
    """The entry point of `pyegress` and `python -m pyegress`."""
    program(prog_name="pyegress")
