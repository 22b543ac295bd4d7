# SPDX-License-Identifier: MIT
"""The page of a report: one file that asks nobody for anything, without a script, whatever names are in it."""

from __future__ import annotations

import base64
import hashlib
import time
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup

from pyegress import __version__
from pyegress.losses import Losses
from pyegress.report import drawing
from pyegress.report.drawing import Bar, Node
from pyegress.report.model import Destination, Gathered
from pyegress.report.tables import (
    Ports,
    cut,
    moment,
    port_text,
    ranked_ports,
    ranked_services,
    service_text,
    shown,
    tables,
    where_text,
)

BARS = 15
SERVICES_DRAWN = 12
DESTINATIONS_DRAWN = 20
_LABEL_CHARS = 44


def page(gathered: Gathered, losses: Losses, logs: Sequence[str], most: int, redact: bool) -> bytes:
    """The whole page; `logs` are the names of what was read, `most` how many rows a table may have."""
    folder = files("pyegress.report")
    style = (folder / "page.css").read_text("utf-8")
    environment = Environment(
        loader=DictLoader({"page.html": (folder / "page.html").read_text("utf-8")}),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = lambda count: f"{count:,}"
    environment.filters["counted"] = _counted
    ports = ranked_ports(gathered)
    text = environment.get_template("page.html").render(
        **tables(gathered, ports, losses, logs, most, redact)._asdict(),
        most=most,
        made=moment(time.time_ns()),
        version=__version__,
        style=Markup(style),
        policy=_policy(style),
        timeline=_timeline(gathered),
        graph=_graph(gathered),
        bars=_bars(ports),
    )
    return text.encode()


def _policy(style: str) -> str:
    """Nothing may be loaded, run or sent, and only our own style sheet acts."""
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"


def _counted(count: int, one: str, many: str = "") -> str:
    """`1 port`, `1,234 ports`."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def _timeline(gathered: Gathered) -> Markup | None:
    first = sorted(span.first_ns for span in gathered.destinations().values() if span.first_ns)
    if not first:
        return None
    return Markup(drawing.timeline(first, gathered.span.first_ns, gathered.span.last_ns))


def _bars(ports: Ports) -> Markup | None:
    rows = [
        Bar(
            cut(f"{port_text(port)} / {shown(port.protocol)}", _LABEL_CHARS),
            use.count,
            f"{use.count:,} · {_counted(use.services, 'service')}, {_counted(use.destinations, 'destination')}",
        )
        for port, use in ports[:BARS]
    ]
    return Markup(drawing.bars(rows)) if rows else None


def _graph(gathered: Gathered) -> Markup | None:
    """Of the services and the destinations with the most connections; all others are one node a side."""
    ranked = ranked_services(gathered)
    if not ranked:
        return None
    counts: Counter[Destination] = Counter()
    names: dict[Destination, str] = {}
    for _, about in ranked:
        for where, use in about.uses.items():
            counts[where] += use.count
            if use.names:
                names.setdefault(where, use.names[0])
    drawn = {where: place for place, (where, _) in enumerate(counts.most_common(DESTINATIONS_DRAWN))}
    edges: Counter[tuple[int, int]] = Counter()
    for place, (_, about) in enumerate(ranked):
        for where, use in about.uses.items():
            edges[min(place, SERVICES_DRAWN), drawn.get(where, len(drawn))] += use.count
    left = [
        Node(
            cut(service_text(service), _LABEL_CHARS),
            shown(service.user, _LABEL_CHARS) if service.user else "",
        )
        for service, _ in ranked[:SERVICES_DRAWN]
    ]
    right = [
        Node(
            cut(where_text(where), _LABEL_CHARS + 6),
            shown(names[where], _LABEL_CHARS) if where in names else "",
        )
        for where in drawn
    ]
    if len(ranked) > SERVICES_DRAWN:
        left.append(Node(_counted(len(ranked) - SERVICES_DRAWN, "more service"), is_rest=True))
    if len(counts) > len(drawn):
        right.append(Node(_counted(len(counts) - len(drawn), "more destination"), is_rest=True))
    return Markup(drawing.graph(left, right, edges))
