# SPDX-License-Identifier: MIT
"""`pyegress rules`: rules from earlier logs, and whether rules hold for what was logged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pyegress import options
from pyegress.errors import InputError, UsageError
from pyegress.escape import display
from pyegress.losses import Losses
from pyegress.outputs.iptables import Iptables, IptablesOptions
from pyegress.outputs.nftables import Nftables, NftablesOptions

if TYPE_CHECKING:
    from pyegress.outputs.rulefile import RuleOutput
    from pyegress.plugin import Batch
    from pyegress.rules.firewall import Firewall

EXIT_DIFFERENT = 1
_FORMS: dict[str, tuple[str, str]] = {
    "nftables": ("nftables", "nft"),
    "iptables": ("iptables", "commands"),
    "restore": ("iptables", "restore"),
    "json": ("nftables", "json"),
}
"""The output that writes each form, and its `format`."""
_SHORT = {"verbose": ["-v"], "file": ["-f"]}
_Function = TypeVar("_Function", bound=Callable[..., Any])

Say = Callable[[str], None]


def _rule_options(function: _Function) -> _Function:
    """An option of the command for each of the outputs' own."""
    nft = {each.key: each for each in options.describe(NftablesOptions)}
    both = nft | {each.key: each for each in options.describe(IptablesOptions)}
    for key, each in reversed(both.items()):
        if key == "format":
            continue
        only = "" if key in nft and each == nft[key] else " (iptables, restore)" if key not in nft else ""
        is_flag = each.type_text == "bool"
        shown: dict[str, Any] = (
            {"is_flag": True} if is_flag else {"metavar": each.type_text.upper().split()[0]}
        )
        default = "" if is_flag else f" [default: {each.default_text}]"
        function = click.option(
            f"--{key}",
            *_SHORT.get(key, []),
            key.replace("-", "_"),
            help=f"{each.help}{only}{default}",
            **shown,
        )(function)
    return function


def command(say: Say, write: Callable[[str], None]) -> click.Command:
    """The command, which speaks to the user through `say` and gives what was asked for to `write`."""

    @click.command("rules")
    @click.argument("logs", metavar="LOG...", nargs=-1, required=True)
    @click.option(
        "--as",
        "form",
        type=click.Choice(list(_FORMS)),
        default="nftables",
        help="What to write: a file for nft, commands of iptables, files for iptables-restore, or JSON. "
        "[default: nftables]",
    )
    @click.option(
        "--verify",
        "verify",
        metavar="RULES",
        multiple=True,
        help="Write no rules, but say which of the logged connections those would drop; repeatable.",
    )
    @click.option(
        "--diff",
        is_flag=True,
        help="Write no rules, but compare them with those that are live. LOG may be a file of rules instead.",
    )
    @_rule_options
    def rules(logs: tuple[str, ...], form: str, verify: tuple[str, ...], diff: bool, **given: Any) -> None:
        """Make firewall rules from logs of pyegress (logfmt, JSON lines; plain, gzip or zstd; - for stdin).

        Nothing is loaded: see `pyegress apply`. With --verify or --diff the exit status is 1 where anything would be
        dropped, or differs.
        """
        if verify and diff:
            raise UsageError("rules: give either --verify or --diff")
        verbose = given["verbose"] not in (None, "0")
        losses = Losses()
        if verify:
            lines, fine = _verified(logs, verify, given["family"], verbose, losses)
        elif diff:
            lines, fine = _compared(logs, form, given, verbose, losses)
        else:
            _made(logs, form, given, losses, say)
            lines, fine = (), True
        write("".join(f"{line}\n" for line in lines))
        for line in losses.lines():
            say(line)
        if not fine:
            raise click.exceptions.Exit(EXIT_DIFFERENT)

    return rules


def _read(logs: Sequence[str], losses: Losses) -> Iterator[Batch]:
    from pyegress.logs.reader import LogReader

    reader = LogReader(losses)
    for log in logs:
        yield from reader.read(log)


def _output(form: str, given: dict[str, Any]) -> RuleOutput:
    name, kind = _FORMS[form]
    kinds: dict[str, tuple[Any, Any]] = {
        "nftables": (Nftables, NftablesOptions),
        "iptables": (Iptables, IptablesOptions),
    }
    made, options_type = kinds[name]
    known = {each.key for each in options.describe(options_type)}
    pairs = [("format", kind)]
    for field, value in given.items():
        key = field.replace("_", "-")
        if value in (None, False):
            continue
        if key not in known:
            raise UsageError(f"--{key}: not with --as {form}")
        pairs.append((key, "true" if value is True else value))
    output: RuleOutput = made(options.parse("-O", name, options_type, pairs))
    return output


def _made(logs: Sequence[str], form: str, given: dict[str, Any], losses: Losses, say: Say) -> None:
    output = _output(form, given)
    if not output.write_logged(_read(logs, losses), losses):
        say("rules: no outbound connection is in the logs that a rule could allow")
        raise click.exceptions.Exit(1)


def _verified(
    logs: Sequence[str], files: Iterable[str], family: str | None, verbose: bool, losses: Losses
) -> tuple[Iterable[str], bool]:
    from pyegress.rules.findings import proof_lines
    from pyegress.rules.proof import verify

    firewalls = [firewall for file in files for firewall in _firewalls(file, family)]
    proof = verify(firewalls, _read(logs, losses))
    if not proof.observed and not proof.not_judged and not proof.left_out:
        raise InputError("rules: no connection is in the logs")
    return proof_lines(proof, verbose), not proof.dropped


def _compared(
    logs: Sequence[str], form: str, given: dict[str, Any], verbose: bool, losses: Losses
) -> tuple[Iterable[str], bool]:
    from pyegress.rules.diff import compare
    from pyegress.rules.findings import difference_lines

    wanted: list[Firewall] = []
    if all(_is_rules(log) for log in logs):
        wanted = [firewall for log in logs for firewall in _firewalls(log, given["family"])]
    else:
        if form == "json":
            raise UsageError("--diff: not with --as json")
        if form != "nftables" and given["family"] is None:
            given["file"] = given["file"] or "compared"
        output = _output(form, given)
        for ending, text in output.texts(_read(logs, losses), losses):
            wanted += _parsed(text, f"rules{ending}", given["family"])
    table = given["table"] or "pyegress"
    live = [each for kind in {each.kind for each in wanted} for each in _live(kind, table)]
    families = {family for each in wanted for family in each.families}
    live = [each for each in live if families & set(each.families)]
    difference = compare(wanted, live)
    return difference_lines(difference, verbose), difference.is_same


def _live(kind: str, table: str) -> list[Firewall]:
    """The kernel's own rules: our table, or what OUTPUT of iptables leads to."""
    import json

    from pyegress.apply import programs
    from pyegress.rules import read_iptables, read_nft_json

    if kind == "nftables":
        # All of it, because a table that isn't there is an error to nft.
        listed = json.loads(programs.run("nft", "-j", "-n", "list", "ruleset"))["nftables"]
        ours = [each for each in listed if all(_is_of(value, table) for value in each.values())]
        return read_nft_json.read_json(json.dumps({"nftables": ours}))
    found = read_iptables.read_text(programs.run("iptables-save", "-c"), 4, live=True)
    return found + read_iptables.read_text(programs.run("ip6tables-save", "-c"), 6, live=True)


def _is_of(value: dict[str, Any], table: str) -> bool:
    return value.get("family") == "inet" and value.get("table") == table


def _is_rules(path: str) -> bool:
    if path == "-":
        return False
    text = _text(path)
    return _kind(text) is not None


def _firewalls(path: str, family: str | None) -> list[Firewall]:
    return _parsed(_text(path), path, family)


def _parsed(text: str, path: str, family: str | None) -> list[Firewall]:
    from pyegress.apply.files import family_of
    from pyegress.rules import read_iptables, read_nft

    kind = _kind(text)
    try:
        if kind == "nft":
            return read_nft.read_text(text)
        if kind == "commands":
            return [
                each for one in (4, 6) for each in read_iptables.read_commands(text, 4 if one == 4 else 6)
            ]
        if kind == "restore":
            told = family or family_of(path, text)
            if told is None:
                raise InputError("IPv4 or IPv6? say --family 4 or 6")
            return read_iptables.read_text(text, 4 if int(told) == 4 else 6)
    except InputError as error:
        raise InputError(f"{display(path)}: {error}") from error
    raise InputError(f"{display(path)}: is no file of rules for nft, iptables or iptables-restore")


def _kind(text: str) -> str | None:
    """What reads it: nft, a shell (`commands`) or iptables-restore."""
    from pyegress.rules import read_iptables

    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0].startswith("*"):
            return "restore"
        if words[0] == "table" or words[:2] == ["add", "table"]:
            return "nft"
        return "commands" if read_iptables.is_commands(line) else None
    return None


def _text(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return file.read().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise InputError(f"{display(path)}: {error.strerror}") from error
