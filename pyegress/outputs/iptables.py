# SPDX-License-Identifier: MIT
"""Rules for iptables and ip6tables that allow what was seen, written at exit."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Address
from typing import Annotated, ClassVar

from msgspec import Meta

from pyegress import plugin
from pyegress.errors import OutputError
from pyegress.escape import display
from pyegress.outputs.filesink import FileSink
from pyegress.plugin import Batch, Context, Output
from pyegress.record import Process
from pyegress.rules.model import Rule, RuleSet
from pyegress.rules.quote import comment, quoted, word

# iptables-restore reads 10239 bytes at a time and takes the rest of a longer comment for the next line;
# a terminal takes 4095. Quoting at most doubles this.
_COMMAND_BYTES = 1024


class IptablesOptions(plugin.Options, frozen=True, kw_only=True):
    """Options of the iptables output."""

    verbose: Annotated[
        int,
        Meta(ge=0, le=2, description="1: process and user above each rule, 2: its command and parents too"),
    ] = 0
    file: Annotated[str, Meta(description="file to append to (0640, reopened on SIGHUP), - for stdout")] = "-"


def _name(process: Process | None) -> str | None:
    return None if process is None else process.name or process.comm


def _who(process: Process | None) -> str:
    name = _name(process)
    who = word(name) if name else "an unknown process"
    return who if process is None or process.user is None else f"{who} running as {word(process.user)}"


def rule_line(rule: Rule) -> str:
    """The command that allows one destination."""
    program = "iptables" if rule.family == 4 else "ip6tables"
    interface = "" if rule.ifname is None else f" -o {rule.ifname}"
    match = "" if rule.dest_port is None else f" -m {rule.protocol} --dport {rule.dest_port}"
    return (
        f"{program} -I OUTPUT{interface} -d {rule.dest_ip} -p {rule.protocol}{match} -j ACCEPT"
        f" -m comment --comment {comment(_name(rule.process))}"
    )


def comment_lines(rule: Rule, verbose: int) -> Iterator[str]:
    """The `#` lines above a rule."""
    process = rule.process
    if rule.ifname is None and rule.family == 6 and IPv6Address(rule.dest_ip).is_link_local:
        yield f"# [{rule.hook}] Its interface is not known: this link-local rule holds on every interface"
    if verbose < 1:
        return
    sentence = f"# [{rule.hook}] Line generated for {_who(process)}"
    if verbose > 1 and process is not None and process.cmdline:
        sentence += f" with command {quoted(process.cmdline, _COMMAND_BYTES)}"
    yield sentence
    parent = process.parent if verbose > 1 and process is not None else None
    for role in ("Parent", "Grandparent"):
        if parent is not None:
            yield f"# [{rule.hook}] {role} of this process was {_who(parent)}"
            parent = parent.parent


class Iptables(Output):
    """Keeps one rule per destination and writes them all when it is closed."""

    name: ClassVar[str] = "iptables"
    summary: ClassVar[str] = "iptables and ip6tables commands that allow what was seen, at exit"
    Options: ClassVar[type[plugin.Options]] = IptablesOptions
    writes_at_end: ClassVar[bool] = True

    def __init__(self, options: IptablesOptions) -> None:
        self._options = options
        self._context: Context | None = None
        self._sink: FileSink | None = None
        self._rules: RuleSet | None = None

    def open(self, context: Context) -> None:
        self._sink = FileSink(self._options.file)
        self._context = context
        self._rules = RuleSet(self.name, context.losses)

    def write(self, batch: Batch) -> None:
        if self._rules is None:
            raise OutputError("iptables: not open")
        self._rules.add(batch)

    def reopen(self) -> None:
        if self._sink is not None:
            self._sink.reopen()

    def close(self) -> None:
        rules, sink, context = self._rules, self._sink, self._context
        self._rules = self._sink = None
        if rules is None or sink is None or context is None:
            return
        try:
            if len(rules):
                sink.write("".join([line + "\n" for line in self._lines(rules, context)]).encode())
            else:
                context.notice("iptables: no outbound connection was seen that a rule could allow")
        finally:
            sink.close()

    def _lines(self, rules: RuleSet, context: Context) -> Iterator[str]:
        for (stage, reason), count in context.losses.snapshot().items():
            if stage == "lost":
                yield f"# incomplete: {count} connections were lost ({display(reason)})"
        for rule in rules.rules():
            yield from comment_lines(rule, self._options.verbose)
            yield rule_line(rule)
