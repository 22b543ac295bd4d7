# SPDX-License-Identifier: MIT
"""`pyegress rules`: rules from earlier logs, the proof of rules against logs, and how they differ from live ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import click

from pyegress import options, registry, rules_sources
from pyegress.errors import InputError, UsageError
from pyegress.escape import display
from pyegress.losses import Losses
from pyegress.rules_sources import BY, Logs, Source

if TYPE_CHECKING:
    from pyegress.logs.fleet import Fleet
    from pyegress.outputs.rulefile import RuleOutput
    from pyegress.rules.addresses import Family
    from pyegress.rules.firewall import Firewall

Say = Callable[[str], None]
Form = Literal["nftables", "iptables", "restore", "json"]

EXIT_FOUND = 1
"""Something would be dropped, or the rules differ."""
_FORMS: dict[Form, tuple[str, str]] = {
    "nftables": ("nftables", "nft"),
    "iptables": ("iptables", "commands"),
    "restore": ("iptables", "restore"),
    "json": ("iptables", "json"),
}
"""Output, and its format."""
_DECIDED = "format"
"""The option that --as decides."""
_SHORT = {"file": "-f", "verbose": "-v"}
_FOR_VERIFY = ("verbose", "family")
_FOR_RULES = ("verbose", "family", "table")
"""With a comparison of a file."""


def command(say: Say, show: Say) -> click.Command:
    """The command, which speaks to the user through `say`, and writes to stdout through `show`."""

    @click.command("rules", cls=_Command)
    @click.argument("logs", metavar="LOG...", nargs=-1)
    @click.option(
        "--as",
        "form",
        type=click.Choice(list(_FORMS)),
        help="For nft -f; iptables commands; iptables-restore; or a report as JSON. [default: nftables]",
    )
    @click.option(
        "--verify",
        "proved",
        metavar="RULES",
        multiple=True,
        help="Say which connections of the LOGs this file of rules would drop; repeatable (IPv4 and IPv6).",
    )
    @click.option(
        "--diff",
        "differ",
        is_flag=True,
        help="Compare with pyegress' rules that this host has loaded: what the LOGs give, or files of rules.",
    )
    def rules(
        logs: tuple[str, ...], form: Form | None, proved: tuple[str, ...], differ: bool, **given: Any
    ) -> None:
        """Make firewall rules from earlier logs, or see whether rules are right.

        LOG is a file of `-o logfmt` or `-o json` (also .gz or .zst), or - for standard input; those of several hosts
        give rules for all of them. RULES is a file for nft, for iptables-restore, or with iptables commands.
        With --loki the records of a fleet come from Loki.

        \b
        pyegress rules --baseline --policy drop egress.log > rules.nft
        pyegress rules --verify rules.nft egress.log
        pyegress rules --diff rules.nft
        pyegress rules --loki http://loki:3100 --since 30d --by host --file 'rules-{host}.nft'

        Exit status: 0 done, nothing would be dropped, no difference; 1 otherwise.
        """
        chosen = {key: value for key, value in given.items() if value is not None}
        fleet = rules_sources.taken(chosen, say)
        if fleet:
            click.get_current_context().call_on_close(fleet.close)
        label = chosen.pop(BY, None)
        if proved and differ:
            raise UsageError("rules: give either --verify or --diff")
        if fleet and logs:
            raise UsageError("rules: give either LOGs or --loki")
        if label and (proved or differ):
            raise UsageError(
                f"--by: not with --{'verify' if proved else 'diff'}; narrow --query to one value"
            )
        if not logs and not fleet:
            raise UsageError(
                "rules: name a log, or give --loki"
                if not differ
                else "rules: --diff: name a log or a file of rules, or give --loki"
            )
        source = fleet.whole if fleet else Logs(logs)
        if proved:
            fine = _verify(proved, source, form, chosen, say, show)
        elif differ:
            fine = _diff(logs, source, form, chosen, say, show)
        elif fleet and label:
            _make_each(fleet, label, form or "nftables", chosen, say)
            fine = True
        else:
            if not _make(source, form or "nftables", chosen, say):
                raise _nothing(source)
            fine = True
        if not fine:
            raise click.exceptions.Exit(EXIT_FOUND)

    return rules


class _Command(click.Command):
    """It has the options of the outputs that make rules, and those for Loki, which take time to import."""

    _complete = False

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        if not self._complete:
            self._complete = True
            self.params += [*_options(), *rules_sources.loki_options()]
        return super().get_params(ctx)


def _options() -> Iterator[click.Option]:
    """Those of the outputs, each once."""
    known = {_DECIDED}
    for output in ("nftables", "iptables"):
        declared = registry.output_named(output).Options
        for option in options.describe(declared):
            if option.key in known:
                continue
            known.add(option.key)
            names = [f"--{option.key}", *([_SHORT[option.key]] if option.key in _SHORT else [])]
            read = rules_sources.reading(option.key, options.reader(declared, option.key))
            text = f"{option.help}. [default: {option.default_text}]"
            if option.type_text == "bool":
                negated = f"/--no-{option.key}" if option.default_text == "true" else ""
                yield click.Option([names[0] + negated], is_flag=True, default=None, help=f"{option.help}.")
            else:
                metavar = rules_sources.metavar(option)
                yield click.Option(names, metavar=metavar, callback=read, help=text)


def _output(form: Form, chosen: Mapping[str, Any]) -> RuleOutput:
    """What writes rules of that form."""
    name, fixed = _FORMS[form]
    kind: Any = registry.output_named(name)
    _allow(chosen, kind.Options.__struct_fields__, f"not with --as {form}")
    values = {**chosen, _DECIDED: fixed}
    if form == "iptables" and (values.get("baseline") or values.get("policy", "log") != "log"):
        what = "baseline" if values.get("baseline") else f"policy {values['policy']}"
        raise UsageError(f"--{what}: needs a chain of its own; use --as restore")
    if form == "iptables" and values.get("merge") == "name":
        raise UsageError("--merge name: needs sets; use --as restore")
    if form == "restore" and values.get("merge") == "name" and values.get("file", "-") in ("", "-"):
        raise UsageError("--merge name: makes PATH.ipset too, with the sets of names; give --file PATH")
    if form == "restore" and values.get("family", "both") == "both" and values.get("file", "-") in ("", "-"):
        raise UsageError(
            "--as restore: makes two files; give --file PATH for PATH.v4 and PATH.v6, or --family 4 or 6 for one"
        )
    made: RuleOutput = kind(kind.Options(**values))
    return made


def _allow(chosen: Iterable[str], known: Iterable[str], why: str) -> None:
    for key in chosen:
        if key not in known:
            raise UsageError(f"--{key.replace('_', '-')}: {why}")


def _make(source: Source, form: Form, chosen: Mapping[str, Any], say: Say) -> bool:
    """Whether any rule came of it."""
    output, losses = _output(form, chosen), Losses()
    written = output.write_logged(source.repeats(losses), losses, source.keeps_losses, say)
    _say_losses(losses, say)
    return written


def _make_each(fleet: Fleet, label: str, form: Form, chosen: Mapping[str, Any], say: Say) -> None:
    """A file, or a pair, for each value of a label; one after the other, so that memory holds one."""
    pattern = rules_sources.file_pattern(label, chosen)
    _output(form, chosen)
    parts, without = fleet.by(label)
    if without:
        say(f"left out: {without} streams without the label {display(label)}")
    written = 0
    for value, source in parts:
        file = rules_sources.file_of(pattern, label, value)
        if _make(source, form, {**chosen, "file": file}, partial(_say_of, say, display(value))):
            written += 1
        else:
            say(str(_nothing(source)))
    if not written:
        raise _nothing(fleet.whole)


def _verify(
    files: Sequence[str],
    source: Source,
    form: Form | None,
    chosen: Mapping[str, Any],
    say: Say,
    show: Say,
) -> bool:
    from pyegress.rules.findings import proof_lines
    from pyegress.rules.proof import verify

    _allow(chosen, _FOR_VERIFY, "not with --verify")
    if form is not None:
        raise UsageError("--as: not with --verify; a file of rules tells what it is for")
    firewalls = [each for name in files for each in _rules(name, chosen).firewalls]
    losses = Losses()
    proof = verify(firewalls, source.connections(losses))
    show("".join(f"{line}\n" for line in proof_lines(proof, bool(chosen.get("verbose")))))
    _say_losses(losses, say)
    if not proof.observed:
        raise InputError(f"no outbound connection in {source.name} that the rules are for: nothing is proved")
    return not proof.dropped


def _diff(
    names: Sequence[str], source: Source, form: Form | None, chosen: Mapping[str, Any], say: Say, show: Say
) -> bool:
    """`names` are files of rules, or logs and then what `source` has."""
    from pyegress.rules import live, read
    from pyegress.rules.diff import compare
    from pyegress.rules.findings import difference_lines

    if not any(live.is_installed(program) for program in ("nft", "iptables-save", "ip6tables-save")):
        raise InputError("--diff: neither nft nor iptables is installed here")
    are_rules = [read.is_rules_file(name) for name in names]
    if any(are_rules) and not all(are_rules):
        raise UsageError("--diff: logs and files of rules; give either")
    if are_rules and all(are_rules):
        _allow(chosen, _FOR_RULES, "not with --diff of a file of rules")
        if form is not None:
            raise UsageError("--as: not with --diff of a file of rules, which tells what it is for")
        wanted = _together([_rules(name, chosen) for name in names])
    else:
        wanted = _logged(source, form, chosen, say)
    table = chosen.get("table", "pyegress")
    loaded = _live(wanted, table)
    for family in _iptables_families(wanted.firewalls):
        for notice in live.backend_notices(family):
            say(notice)
    if not loaded:
        say(f"{_place(wanted, table)} is not loaded here")
    difference = compare(wanted.firewalls, loaded)
    show("".join(f"{line}\n" for line in difference_lines(difference, bool(chosen.get("verbose")))))
    return difference.is_same


class _Rules(NamedTuple):
    firewalls: list[Firewall]
    own: bool
    """For a table or chain of pyegress' own."""


def _rules(name: str, chosen: Mapping[str, Any]) -> _Rules:
    from pyegress.apply.files import family_of
    from pyegress.rules import read

    text = read.text_of(name)
    kind = read.kind_of(text)
    if kind is None:
        raise InputError(f"{display(name)}: is no file of rules for nft, iptables-restore or iptables")
    family: Family | None = None
    if kind == "restore":
        family = family_of(name, text) or _FAMILIES.get(chosen.get("family", ""))
    sets = read.sets_beside(name, text) if kind == "restore" else None
    own = kind != "commands" and (kind != "restore" or read.fills_own_chain(text))
    return _Rules(read.firewalls(name, text, kind, family, sets), own)


_FAMILIES: dict[str, Family] = {"4": 4, "6": 6}


def _together(rules: Sequence[_Rules]) -> _Rules:
    firewalls = [firewall for each in rules for firewall in each.firewalls]
    if len({firewall.kind for firewall in firewalls}) > 1 or len({each.own for each in rules}) > 1:
        raise UsageError("--diff: files for different firewalls; compare one after the other")
    return _Rules(firewalls, all(each.own for each in rules))


def _logged(source: Source, form: Form | None, chosen: Mapping[str, Any], say: Say) -> _Rules:
    """The rules that the records give, for the firewall that is loaded here unless --as names one."""
    from pyegress.rules import ipset, live, read

    if form == "json":
        raise UsageError("--as json: not with --diff")
    if form is None:
        table = chosen.get("table", "pyegress")
        has_chain = not live.nft_table(table) and (live.iptables_chain(4) or live.iptables_chain(6))
        form = "restore" if has_chain else "nftables"
    wanted = {**chosen, "file": "rules"} if form == "restore" else chosen
    output, losses = _output(form, wanted), Losses()
    texts = dict(output.texts(source.repeats(losses), losses, source.keeps_losses, say))
    _say_losses(losses, say)
    sets = ipset.read_text(texts.pop(ipset.ENDING, ""))
    kind: read.Kind = "nft" if form == "nftables" else "restore" if form == "restore" else "commands"
    endings: dict[str, Family] = {".v4": 4, ".v6": 6}
    one = _FAMILIES.get(chosen.get("family", ""))
    firewalls = [
        firewall
        for ending, text in texts.items()
        for firewall in read.firewalls(
            f"rules from {source.name}", text, kind, endings.get(ending, one), sets
        )
    ]
    if not any(entry.verdict == "accept" for firewall in firewalls for entry in firewall.entries):
        raise _nothing(source)
    return _Rules(firewalls, form != "iptables")


def _live(wanted: _Rules, table: str) -> list[Firewall]:
    """What is loaded where the wanted rules would be."""
    from pyegress.rules import live

    families = _iptables_families(wanted.firewalls)
    if not families:
        return live.nft_table(table)
    return [firewall for family in families for firewall in live.iptables_chain(family, wanted.own)]


def _iptables_families(firewalls: Iterable[Firewall]) -> list[Family]:
    return sorted({family for each in firewalls if each.kind == "iptables" for family in each.families})


def _place(wanted: _Rules, table: str) -> str:
    if not _iptables_families(wanted.firewalls):
        return f"table inet {display(table)}"
    return "the chain PYEGRESS" if wanted.own else "the chain OUTPUT"


def _say_of(say: Say, whose: str, text: str) -> None:
    say(f"{whose}: {text}")


def _say_losses(losses: Losses, say: Say) -> None:
    for line in losses.lines():
        say(line)


def _nothing(source: Source) -> InputError:
    return InputError(f"no outbound connection in {source.name} that a rule could allow")
