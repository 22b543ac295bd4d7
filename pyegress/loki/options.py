# SPDX-License-Identifier: MIT
"""How to get at Loki: options that all who talk to it have, and those of who reads records back."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta, field

from pyegress.loki.endpoint import PASSWORD_VARIABLE, address
from pyegress.loki.labels import JOB
from pyegress.loki.selector import parts
from pyegress.options import DurationNs, duration, duration_text
from pyegress.plugin import Options

_SECOND = 1_000_000_000
_DAY = 86_400 * _SECOND
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_ZONE = re.compile(r"Z$")
_FRACTION = re.compile(r"\.([0-9]+)")


class EndpointOptions(Options, frozen=True, kw_only=True):
    """Where Loki is, and who asks."""

    url: Annotated[
        str,
        Meta(
            min_length=1,
            description="Loki's address, http(s)://[USER:PASS@]HOST:PORT",
            extra={"secret": True},
        ),
    ]
    user: Annotated[str, Meta(description="user of HTTP basic authentication")] = ""
    password: Annotated[
        str,
        Meta(
            description="its password; all users can see it in ps, so better pass-file",
            extra={"secret": True},
        ),
    ] = field(name="pass", default="")
    pass_file: Annotated[
        str, Meta(description=f"file that holds the password; else the variable {PASSWORD_VARIABLE} is used")
    ] = ""
    orgid: Annotated[str, Meta(description="tenant, sent as X-Scope-OrgID")] = ""
    ca_file: Annotated[
        str, Meta(description="certificates to trust for https, PEM; none: those of the system")
    ] = ""

    def __post_init__(self) -> None:
        where = address(self.url)
        for name, text in (("user", self.user), ("orgid", self.orgid)):
            if not text.isprintable() or not text.isascii():
                raise ValueError(f"{name}: must be printable ASCII")
        if ":" in self.user:
            raise ValueError("user: must not hold a colon")
        if self.user and where.user:
            raise ValueError("user: the url has one too; give one of them")
        if sum(map(bool, (self.password, self.pass_file, where.password))) > 1:
            raise ValueError(
                "pass: given more than once; give one of pass, pass-file and a password in the url"
            )
        if (self.password or self.pass_file) and not (self.user or where.user):
            raise ValueError("pass: whose? give user too")


class Moment(msgspec.Struct, frozen=True):
    """A time, or how long ago it is."""

    kind: ClassVar[str] = "duration or time"

    at_ns: int | None = None
    """Since the epoch."""
    ago_ns: int = 0

    @classmethod
    def read(cls, text: str) -> Moment:
        """`30d` (ago), `now`, `2026-11-01` or `2026-11-01T12:00:00+01:00`; ValueError says what is right."""
        if text == "now":
            return cls()
        try:
            return cls(ago_ns=duration(text))
        except ValueError:
            pass
        try:
            # Python 3.10 knows no Z, and of a fraction only six digits.
            plain = _FRACTION.sub(lambda match: f".{match[1]:0<6.6}", _ZONE.sub("+00:00", text))
            time = datetime.fromisoformat(plain)
            since = (time if time.tzinfo else time.replace(tzinfo=timezone.utc)) - _EPOCH
        except (ValueError, OverflowError):
            raise ValueError(
                "must be how long ago, such as 30d, or a time in UTC, such as 2026-11-01T12:00"
            ) from None
        return cls(since // timedelta(microseconds=1) * 1000)

    def ns(self, now_ns: int) -> int:
        """Since the epoch, never before it."""
        return max(now_ns - self.ago_ns if self.at_ns is None else self.at_ns, 0)

    def __str__(self) -> str:
        if self.at_ns is None:
            return duration_text(self.ago_ns) if self.ago_ns else "now"
        return (_EPOCH + timedelta(microseconds=self.at_ns // 1000)).isoformat()


class QueryOptions(EndpointOptions, frozen=True, kw_only=True):
    """What to read back."""

    query: Annotated[str, Meta(description="which records, in LogQL")] = f'{{{JOB}="pyegress"}}'
    since: Annotated[Moment, Meta(description="from when on")] = Moment(ago_ns=30 * _DAY)
    until: Annotated[Moment, Meta(description="until when")] = Moment()
    timeout: Annotated[
        DurationNs,
        Meta(
            ge=1_000_000, le=3600 * _SECOND, description="how long Loki may take to connect, and for a page"
        ),
    ] = 60 * _SECOND
    give_up: Annotated[
        DurationNs,
        Meta(le=_DAY, description="how long a page is asked for again where Loki is away or overloaded"),
    ] = 120 * _SECOND

    def __post_init__(self) -> None:
        super().__post_init__()
        parts(self.query)
