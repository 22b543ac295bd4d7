# SPDX-License-Identifier: MIT
"""Where `pyegress rules` has its connections from: logs, or Loki."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import click
import msgspec

from pyegress import options
from pyegress.errors import UsageError
from pyegress.escape import display
from pyegress.losses import Losses

if TYPE_CHECKING:
    from pyegress.logs.fleet import Fleet
    from pyegress.plugin import Batch
    from pyegress.record import Repeats

BY = "by"
_URL = "url"
_FLAG = "loki"
"""What `url` is called here."""
_LONGEST = 150
"""Bytes of a value in a file's name, which has 255 with its beginning and end."""


class Source(Protocol):
    """Earlier connections."""

    @property
    def name(self) -> str:
        """How messages call it."""

    @property
    def keeps_losses(self) -> bool:
        """It tells what the audits lost, which is added to `losses`."""

    def connections(self, losses: Losses) -> Iterator[Batch]:
        """All of them; raises InputError."""

    def repeats(self, losses: Losses) -> Iterator[Sequence[Repeats]]:
        """The same with what repeats as one."""


class Logs:
    """Files."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = paths

    @property
    def name(self) -> str:
        return display(self._paths[0]) if len(self._paths) == 1 else f"{len(self._paths)} logs"

    @property
    def keeps_losses(self) -> bool:
        from pyegress.logs.store import is_store

        return all(map(is_store, self._paths))

    def connections(self, losses: Losses) -> Iterator[Batch]:
        from pyegress.logs.reader import LogReader

        reader = LogReader(losses)
        for path in self._paths:
            yield from reader.read(path)

    def repeats(self, losses: Losses) -> Iterator[Sequence[Repeats]]:
        from pyegress.logs.reader import LogReader

        reader = LogReader(losses)
        for path in self._paths:
            yield from reader.repeats(path)


def loki_options() -> Iterator[click.Option]:
    """What says which records of Loki."""
    from pyegress.loki.options import QueryOptions

    for option in options.describe(QueryOptions):
        flag = _FLAG if option.key == _URL else option.key
        read = reading(flag, options.reader(QueryOptions, option.key))
        default = "" if option.key == _URL else f" [default: {option.default_text}]"
        start = "Read records back from Loki instead of LOGs" if option.key == _URL else "--loki"
        yield click.Option(
            [f"--{flag}"], metavar=metavar(option), callback=read, help=f"{start}: {option.help}.{default}"
        )
    yield click.Option(
        [f"--{BY}"],
        metavar="LABEL",
        help="--loki: rules for each value of a stream label, such as host, in a file of its own: --file has {LABEL} "
        "where the value is to be, as rules-{host}.nft (%XX for what isn't a letter, digit, dot, - or _).",
    )


def metavar(option: options.OptionHelp) -> str:
    """How help shows what an option takes."""
    return option.type_text.upper().replace(" OR ", "|").replace(" ", "_")


def reading(key: str, read: Callable[[str], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that makes an option's value of its text."""

    def callback(_: click.Context, __: click.Parameter, given: Any) -> Any:
        if given is None:
            return None
        try:
            return read(str(given))
        except ValueError as error:
            raise UsageError(f"--{key} {display(str(given))}: {error}") from None

    return callback


def taken(given: dict[str, Any], say: Callable[[str], None]) -> Fleet | None:
    """Loki, if it was asked for; its options are removed from what was given."""
    from pyegress.loki.options import QueryOptions

    values: dict[str, Any] = {}
    for field in msgspec.structs.fields(QueryOptions):
        flag = _FLAG if field.name == _URL else field.encode_name
        value = given.pop(flag.replace("-", "_"), None)
        if value is not None:
            values[field.name] = value
    if _URL not in values:
        known = {field.name: field.encode_name for field in msgspec.structs.fields(QueryOptions)}
        for key in (*(known[name] for name in values), *({BY} & given.keys())):
            raise UsageError(f"--{key}: only with --loki URL")
        return None
    try:
        chosen = QueryOptions(**values)
    except ValueError as error:
        raise UsageError(f"--loki: {display(str(error))}") from None
    # Here, because it is slow to import and logs don't need it.
    from pyegress.logs.fleet import Fleet

    return Fleet(chosen, say)


def file_pattern(label: str, chosen: Mapping[str, Any]) -> str:
    """The name of the files with the place for a value; UsageError where there is none."""
    pattern = str(chosen.get("file", ""))
    if f"{{{label}}}" not in PurePath(pattern).name:
        raise UsageError(
            f"--by {display(label)}: makes a file for each; give --file with {{{display(label)}}} in its name, "
            f"such as rules-{{{display(label)}}}.nft"
        )
    return pattern


def file_of(pattern: str, label: str, value: str) -> str:
    """The file for a value, whatever that is: it stays in its folder, is hidden nowhere, and no other value's."""
    part = quote(value, safe="", errors="surrogateescape")
    if part.startswith((".", "-", "~")):
        part = f"%{ord(part[0]):02X}{part[1:]}"
    if len(part) > _LONGEST:
        import hashlib  # with it comes OpenSSL, 4 MiB that an audit has no use for

        part = f"{part[:_LONGEST]}%{hashlib.sha256(value.encode(errors='surrogateescape')).hexdigest()[:16]}"
    folder, name = PurePath(pattern).parent, PurePath(pattern).name
    return str(folder / name.replace(f"{{{label}}}", part))
