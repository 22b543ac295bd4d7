# SPDX-License-Identifier: MIT
"""The group of all commands: whose options are those of `run`, and whose every error is one line on stderr."""

from __future__ import annotations

import sys
import traceback
from typing import Any, NoReturn

import click

from pyegress import __version__, listing
from pyegress.errors import EgressError, UsageError, nearest, shortage
from pyegress.escape import display
from pyegress.messages import Level, guard_standard_fds, say, show, silence_stdout
from pyegress.pipeline import EXIT_FAILED, EXIT_READER_GONE

EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

VERSION_LINE = f"pyegress {__version__}\n"
OWN_PROCESS = object()
"""Given as `obj` where this process is the program's alone: it may give up rights for good."""


class Program(click.Group):
    """Runs a command, and exits; nothing else does."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own = {name for parameter in self.get_params(ctx) for name in parameter.opts}
        if args and args[0].startswith("-") and args[0] not in own:
            args = ["run", *args]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            raise UsageError(f"no such command '{display(args[0])}'; {nearest(args[0], self.commands)}")
        return super().resolve_command(ctx, args)

    def main(self, *args: Any, **extra: Any) -> NoReturn:
        guard_standard_fds()
        arguments = extra.get("args") or (args[0] if args else None) or sys.argv[1:]
        extra["standalone_mode"] = False
        try:
            code = super().main(*args, **extra)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            code = EXIT_USAGE
        except click.UsageError as error:
            say(_usage_text(error), Level.ERROR)
            code = EXIT_USAGE
        except EgressError as error:
            say(str(error), Level.ERROR)
            code = error.exit_code
        except (KeyboardInterrupt, click.Abort):
            code = EXIT_INTERRUPTED
        except BrokenPipeError:
            silence_stdout()
            code = EXIT_READER_GONE
        except Exception as error:
            if "--debug" in arguments or "-debug" in arguments:
                traceback.print_exc()
            what = f"{type(error).__name__}: {display(str(error))}"
            lacking = shortage(error)
            if lacking is not None:  # what is half made may then say at exit that it can't be closed either
                sys.unraisablehook = lambda _: None
            say(lacking or f"internal error: {what}; run with --debug for the traceback", Level.ERROR)
            code = EXIT_FAILED
        sys.exit(code or 0)


def _usage_text(error: click.UsageError) -> str:
    if isinstance(error, click.NoSuchOption):
        known = sorted({name for p in error.ctx.command.params for name in p.opts} if error.ctx else [])
        return f"no such option '{display(error.option_name)}'; {nearest(error.option_name, known)}"
    text = display(" ".join(error.format_message().split())).rstrip(".")
    return text[:1].lower() + text[1:]


def _show_list(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        show(listing.text())
        ctx.exit()


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        show(VERSION_LINE)
        ctx.exit()


list_option = click.option(
    "-l",
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_list,
    help="List plugins with their options, and exit.",
)
version_option = click.option(
    "-V",
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_version,
    help="Show the version, and exit.",
)
