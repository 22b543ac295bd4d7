# SPDX-License-Identifier: MIT
"""The command line: all commands."""

from __future__ import annotations

import sys

import click

from pyegress import (
    apply_command,
    completion,
    configexample,
    listing,
    manpage,
    names_command,
    replay_command,
    report_command,
    rules_command,
    run_command,
    top_command,
)
from pyegress.messages import say, show
from pyegress.pipeline import EXIT_FAILED
from pyegress.program import OWN_PROCESS, VERSION_LINE, Program, list_option, version_option
from pyegress.progressbar import is_terminal


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Options without a command are those of `run`: `pyegress -i ebpf -o logfmt`.",
)
@list_option
@version_option
def program() -> None:
    """Audit of this host's outbound connections."""


@program.command("list")
@click.option(
    "--toml", is_flag=True, help="Print a config file with every option as a comment. [default: no]"
)
def list_plugins(toml: bool) -> None:
    """List inputs and outputs with their options (same as -l)."""
    show(configexample.text() if toml else listing.text())


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

    show(setup_rules.text(what, firewall, group=group, queue=queue, bypass=not no_bypass))


@program.command("schema")
def print_schema() -> None:
    """Print the JSON Schema of the lines that the json output writes."""
    import msgspec

    from pyegress.logs import jsonl

    show(msgspec.json.format(msgspec.json.encode(jsonl.schema())).decode() + "\n")


@program.command()
def version() -> None:
    """Print the version (same as -V)."""
    show(VERSION_LINE)


@program.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Say what works on this host for this user, by trying it, and what to do about the rest.

    Exit status: 0 if an audit by eBPF sees connections, else 1.
    """
    from pyegress.doctor import json, text
    from pyegress.doctor.examination import examine

    found = examine()
    if as_json:
        show(json.encoded(found))
    else:
        show(text.coloured(found) if is_terminal(sys.stdout) else text.plain(found))
    raise click.exceptions.Exit(0 if found.works else EXIT_FAILED)


program.add_command(run_command.run)
program.add_command(apply_command.command(say))
program.add_command(rules_command.command(say, show))
program.add_command(names_command.command(say))
program.add_command(report_command.command(say))
program.add_command(top_command.command(run_command.run))
program.add_command(replay_command.command(run_command.run))
program.add_command(completion.command(program, show))
program.add_command(manpage.command(program, show))


def main() -> None:
    """Run the command of this process' arguments; exits."""
    program(prog_name="pyegress", obj=OWN_PROCESS)
