# SPDX-License-Identifier: MIT
"""systemd and its journal."""

from __future__ import annotations

from pathlib import Path

from pyegress.doctor.finding import Finding, of_error
from pyegress.errors import OutputError
from pyegress.losses import Losses
from pyegress.outputs.journal import Journal, JournalOptions
from pyegress.plugin import Context

BOOTED = Path("/run/systemd/system")
"""sd_booted(3)"""


def systemd(name: str) -> Finding:
    """Whether it runs the services here."""
    if BOOTED.is_dir():
        return Finding(name, "works", "runs the services of this host")
    return Finding(
        name,
        "limited",
        "doesn't run here: records have no units, and there are no rules for units",
        "nothing, if services are started in another way",
    )


def journald(name: str) -> Finding:
    """Whether -o journal opens."""
    output = Journal(JournalOptions())
    try:
        output.open(Context(Losses(), notice=_ignore, debug=_ignore))
    except OutputError as error:
        found = of_error(name, error, "limited")
        return Finding(name, found.state, found.detail.removeprefix("journal: "), found.remedy)
    finally:
        output.close()
    return Finding(name, "works", "-o journal can be used")


def _ignore(text: str) -> None:
    pass
