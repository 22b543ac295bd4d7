# SPDX-License-Identifier: MIT
"""A plugin's Options Struct: text from the command line in, checked values out, and help for people."""

from __future__ import annotations

import enum
import functools
import ipaddress
import operator
import re
import types
import typing
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from fractions import Fraction
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from pyegress.errors import UsageError, nearest
from pyegress.escape import display
from pyegress.plugin import Options

OptionsType = TypeVar("OptionsType", bound=Options)

Cidr: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network
"""`10.0.0.0/8`, `192.0.2.1` (= /32) or `2001:db8::/32`; host bits are masked off."""

DurationNs = Annotated[int, Meta(extra={"scalar": "duration"})]
"""Nanoseconds, written `10s`, `1h30m`, `500ms`."""

SizeBytes = Annotated[int, Meta(extra={"scalar": "size"})]
"""Bytes, written `4M`, `256K`, `1048576`."""


class Ports(msgspec.Struct, frozen=True):
    """A port or an inclusive range of ports."""

    first: int
    last: int

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


class Queues(Ports, frozen=True):
    """A netfilter queue or an inclusive range of queues."""


class OptionHelp(msgspec.Struct, frozen=True):
    """What people are told about one option."""

    key: str
    type_text: str
    default_text: str
    help: str
    choices: tuple[str, ...] = ()
    """All that can be written, where that is few."""


class Place(NamedTuple):
    """Where options of a plugin are written, for messages: `-I ebpf:KEY:VALUE`, `FILE: inputs.ebpf.KEY = VALUE`."""

    start: str
    before_key: str = ":"
    before_value: str = ":"

    def of(self, key: str, value: str | None = None) -> str:
        """The place of one option, with what it says."""
        place = f"{self.start}{self.before_key}{display(key)}"
        return place if value is None else f"{place}{self.before_value}{value}"


class Given(NamedTuple):
    """An option as somebody wrote it."""

    key: str
    text: str
    place: Place
    level: int = 0
    """Of what can be given once, that of the highest level holds; of what is repeatable all do."""


def parse(
    flag: str, plugin: str, options_type: type[OptionsType], given: Iterable[tuple[str, str]]
) -> OptionsType:
    """The options that (key, text) pairs of a command line ask for; UsageError names the pair that can't be."""
    place = Place(f"{flag} {plugin}")
    return resolve(place, options_type, [Given(key, text, place) for key, text in given])


def resolve(place: Place, options_type: type[OptionsType], given: Iterable[Given]) -> OptionsType:
    """The options that were given; UsageError says where the one is that can't be, and of all of them, `place`."""
    declared = {option.key: option for option in _declared(options_type)}
    values: dict[str, Any] = {}
    levels: dict[str, int] = {}
    for at in sorted(given, key=lambda at: at.level):
        option = declared.get(at.key)
        if option is None:
            raise UsageError(f"{at.place.of(at.key)}: no such option; {nearest(at.key, declared)}")
        if levels.get(option.field) == at.level and not option.container:
            raise UsageError(f"{at.place.of(at.key)}: given twice")
        levels[option.field] = at.level
        try:
            value = option.read(at.text)
        except ValueError as error:
            shown = "***" if option.secret else display(at.text)
            raise UsageError(f"{at.place.of(at.key, shown)}: {error}") from None
        values[option.field] = [*values.get(option.field, ()), value] if option.container else value
    for option in declared.values():
        if option.required and option.field not in values:
            wanted = place._replace(start=place.start.rpartition(" ")[2])
            raise UsageError(f"{place.of(option.key)}: missing; give {wanted.of(option.key, 'VALUE')}")
        if option.container and option.field in values:
            values[option.field] = option.container(values[option.field])
    try:
        return options_type(**values)
    except ValueError as error:  # from a plugin's own __post_init__
        raise UsageError(f"{place.start}: {display(str(error))}") from None


def keys(options_type: type[Options]) -> list[str]:
    """The keys of all options, in the order they were declared."""
    return [option.key for option in _declared(options_type)]


def differing(one: Options, other: Options) -> list[str]:
    """Keys of the options that two of one type have differently."""
    return [
        option.key
        for option in _declared(type(one))
        if getattr(one, option.field) != getattr(other, option.field)
    ]


def with_those_of(one: OptionsType, other: OptionsType, keys: Iterable[str]) -> OptionsType:
    """The one, with some of the other's values."""
    fields = {option.key: option.field for option in _declared(type(one))}
    return msgspec.structs.replace(one, **{fields[key]: getattr(other, fields[key]) for key in keys})


def describe(options_type: type[Options]) -> list[OptionHelp]:
    """Every option in the order it was declared."""
    return [
        OptionHelp(
            option.key,
            option.type_text + (", repeatable" if option.container else ""),
            option.default_text,
            option.help,
            option.choices,
        )
        for option in _declared(options_type)
    ]


def reader(options_type: type[Options], key: str) -> Callable[[str], Any]:
    """What makes a value of one option's text; it raises ValueError that says what is right."""
    return next(option.read for option in _declared(options_type) if option.key == key)


def whole_number(text: str) -> int:
    """Decimal digits with an optional sign; ValueError says what is right."""
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", text):
        raise ValueError("must be a whole number")
    return int(text)


def truth(text: str) -> bool:
    """The spellings of Go's ParseBool, so that upstream command lines work."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError("must be true or false")


_UNIT_NS = {
    "d": 86_400_000_000_000,
    "h": 3_600_000_000_000,
    "m": 60_000_000_000,
    "s": 1_000_000_000,
    "ms": 1_000_000,
    "us": 1_000,
    "µs": 1_000,
    "ns": 1,
}
_DURATION_PART = r"([0-9]{1,19}(?:\.[0-9]{1,19})?)(d|h|ms|m|s|us|µs|ns)"


def duration(text: str) -> int:
    """Nanoseconds of `90s`, `1h30m`, `1.5h`, `30d` or `0`."""
    if text == "0":
        return 0
    if not re.fullmatch(f"(?:{_DURATION_PART})+", text):
        raise ValueError("must be a duration with a unit such as 10s, 1h30m, 500ms")
    total = int(sum(Fraction(number) * _UNIT_NS[unit] for number, unit in re.findall(_DURATION_PART, text)))
    if total >= 1 << 63:
        raise ValueError("must be less than 292 years")
    return total


def duration_text(total_ns: int) -> str:
    """The shortest text that `duration` reads as the same time."""
    parts = []
    rest = total_ns
    for unit, unit_ns in _UNIT_NS.items():
        count, rest = divmod(rest, unit_ns)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0"


_SUFFIX_BYTES = {"G": 1 << 30, "M": 1 << 20, "K": 1 << 10, "": 1}


def size(text: str) -> int:
    """Bytes of `4M`, `256K` or `1048576`."""
    match = re.fullmatch(r"([0-9]{1,19})([KMGkmg]?)", text)
    if not match:
        raise ValueError("must be a number of bytes such as 1048576, 256K, 4M")
    return int(match[1]) * _SUFFIX_BYTES[match[2].upper()]


def size_text(total_bytes: int) -> str:
    """The shortest text that `size` reads as the same number."""
    for suffix, unit in _SUFFIX_BYTES.items():
        if total_bytes and total_bytes % unit == 0:
            return f"{total_bytes // unit}{suffix}"
    return "0"


def ports(text: str) -> Ports:
    """`53` or `8000-8100`."""
    return Ports(*_range(text, 1, "a port, 1..65535, or a range such as 8000-8100"))


def queues(text: str) -> Queues:
    """`0` or `0-3`."""
    return Queues(*_range(text, 0, "a queue, 0..65535, or a range such as 0-3"))


def _range(text: str, least: int, right: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", text)
    if not match:
        raise ValueError(f"must be {right}")
    first, last = int(match[1]), int(match[2] or match[1])
    if not (least <= first <= 65535 and least <= last <= 65535):
        raise ValueError(f"must be {least}..65535")
    if last < first:
        raise ValueError("must not end before it starts")
    return first, last


def cidr(text: str) -> Cidr:
    """A network or an address; an IPv4-mapped prefix is the IPv4 network it stands for."""
    # ipaddress also reads netmasks, wildcard masks and zones, which mean different things to different tools.
    try:
        if not re.fullmatch(r"[0-9A-Fa-f:.]+(/[0-9]{1,3})?", text):
            raise ValueError
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        right = "must be an address or network such as 192.0.2.1, 10.0.0.0/8, 2001:db8::/32"
        raise ValueError(right) from None
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    if mapped is not None and network.prefixlen >= 96:
        return ipaddress.IPv4Network((mapped, network.prefixlen - 96))
    return network


class _Scalar(NamedTuple):
    text: str
    read: Callable[[str], Any]
    show: Callable[[Any], str]
    choices: tuple[str, ...] = ()


_SCALARS: dict[object, _Scalar] = {
    bool: _Scalar("bool", truth, lambda value: str(value).lower(), ("true", "false")),
    int: _Scalar("int", whole_number, str),
    str: _Scalar("text", str, str),
    Ports: _Scalar("port or range", ports, str),
    Queues: _Scalar("queue or range", queues, str),
    frozenset((ipaddress.IPv4Network, ipaddress.IPv6Network)): _Scalar("cidr", cidr, str),
    "duration": _Scalar("duration", duration, duration_text),
    "size": _Scalar("size", size, size_text),
}


class _Option:
    """One field of an Options Struct, resolved from its annotation."""

    def __init__(self, field: msgspec.structs.FieldInfo, annotation: Any) -> None:
        self.field = field.name
        self.key = field.encode_name
        self.container: type[list[Any]] | type[tuple[Any, ...]] | None = None
        bare, metas = _unwrap(annotation)
        if typing.get_origin(bare) in (list, tuple):
            self.container = typing.get_origin(bare)
            bare, inner = _unwrap(typing.get_args(bare)[0])
            self._bounds = inner
        else:
            self._bounds = metas
        metas = metas + [meta for meta in self._bounds if meta not in metas]
        extra = {key: value for meta in metas for key, value in (meta.extra or {}).items()}
        self.secret = bool(extra.get("secret"))
        self.help = next((meta.description for meta in metas if meta.description), "")
        self._scalar = _scalar(bare, extra.get("scalar"))
        self.required = field.required
        self._default = field.default
        if field.default_factory is not msgspec.NODEFAULT:
            self._default = field.default_factory()

    def read(self, text: str) -> Any:
        """The value that a text stands for; ValueError says what is right."""
        value = self._scalar.read(text)
        if isinstance(value, int) and not isinstance(value, bool):
            low, high = self._range()
            if (low is not None and value < low) or (high is not None and value > high):
                raise ValueError(f"must be {self._range_text()}")
        elif isinstance(value, str):
            self._check_text(value)
        return value

    @property
    def type_text(self) -> str:
        """The type as help shows it, with its bounds."""
        return f"{self._scalar.text} {self._range_text()}".rstrip()

    @property
    def choices(self) -> tuple[str, ...]:
        """What can be written, where that is few."""
        return self._scalar.choices

    @property
    def default_text(self) -> str:
        """The default as it would be typed."""
        if self.required:
            return "required"
        if self._default is None:
            return "none"
        if self.container:
            shown = ",".join(self._scalar.show(value) for value in self._default)
        else:
            shown = self._scalar.show(self._default)
        if not shown:
            return "none"
        return "***" if self.secret else shown

    def _range(self) -> tuple[Any, Any]:
        lows = [m.ge for m in self._bounds if m.ge is not None]
        lows += [m.gt + 1 for m in self._bounds if m.gt is not None]
        highs = [m.le for m in self._bounds if m.le is not None]
        highs += [m.lt - 1 for m in self._bounds if m.lt is not None]
        return max(lows, default=None), min(highs, default=None)

    def _range_text(self) -> str:
        low, high = self._range()
        show = self._scalar.show
        if low is not None and high is not None:
            return f"{show(low)}..{show(high)}"
        if low is not None:
            return f"at least {show(low)}"
        return f"at most {show(high)}" if high is not None else ""

    def _check_text(self, value: str) -> None:
        for meta in self._bounds:
            if meta.min_length is not None and len(value) < meta.min_length:
                least = f"must have at least {meta.min_length} characters"
                raise ValueError(least if value else "must not be empty")
            if meta.max_length is not None and len(value) > meta.max_length:
                raise ValueError(f"must have at most {meta.max_length} characters")
            if meta.pattern is not None and not re.search(meta.pattern, value):
                raise ValueError(f"must match {meta.pattern}")


@functools.cache
def _declared(options_type: type[Options]) -> list[_Option]:
    hints = typing.get_type_hints(options_type, include_extras=True)
    return [_Option(field, hints[field.name]) for field in msgspec.structs.fields(options_type)]


def _unwrap(annotation: Any) -> tuple[Any, list[Meta]]:
    """The bare type and each Meta around it; `| None` says only that there may be no value."""
    metas: list[Meta] = []
    while True:
        origin = typing.get_origin(annotation)
        if origin is Annotated:
            metas += [meta for meta in annotation.__metadata__ if isinstance(meta, Meta)]
            annotation = annotation.__origin__
        elif origin in (typing.Union, types.UnionType) and types.NoneType in typing.get_args(annotation):
            rest = [part for part in typing.get_args(annotation) if part is not types.NoneType]
            annotation = functools.reduce(operator.or_, rest)
        else:
            return annotation, metas


def _scalar(bare: Any, named: str | None) -> _Scalar:
    if named:
        return _SCALARS[named]
    arguments = typing.get_args(bare)
    if typing.get_origin(bare) is typing.Literal:
        return _choice({str(value): value for value in arguments})
    if isinstance(bare, type) and issubclass(bare, enum.Enum):
        return _choice({str(member.value): member for member in bare})
    found = _SCALARS.get(frozenset(arguments) if arguments else bare)
    if found is None and isinstance(bare, type) and hasattr(bare, "read"):
        found = _Scalar(bare.kind, bare.read, str)  # type: ignore[attr-defined]
    if found is None:
        raise TypeError(
            f"options.py can't read {bare!r} from text; add it to _SCALARS, or give it `kind` and `read`"
        )
    return found


def _choice(values: dict[str, Any]) -> _Scalar:
    def read(text: str) -> Any:
        if text not in values:
            near = get_close_matches(text, values, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"must be one of {', '.join(values)}{hint}")
        return values[text]

    return _Scalar("|".join(values), read, lambda value: str(getattr(value, "value", value)), tuple(values))
