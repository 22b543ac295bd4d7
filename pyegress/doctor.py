# SPDX-License-Identifier: MIT
"""What works here: every kind of hook is really attached, for a moment, and let go again."""

from __future__ import annotations

import platform

from pyegress import kernel
from pyegress.session import KINDS, AttachError, Session, Settings, explain


def report() -> tuple[list[str], bool]:
    """Lines for the user, and whether an audit can run."""
    missing = kernel.missing_capabilities()
    lines = [
        f"kernel        {platform.release()}",
        f"capabilities  {'missing ' + ', '.join(missing) if missing else 'enough'}",
        f"BTF           {'yes' if kernel.has_btf() else f'no ({kernel.BTF} is not there)'}",
        f"lockdown      {kernel.lockdown() or 'not known (securityfs is not mounted)'}",
        f"cgroup v2     {kernel.cgroup2_root() or 'not mounted'}",
    ]
    failures: list[AttachError] = []
    usable = []
    for kind in KINDS:
        try:
            session = Session(kind, Settings())
        except AttachError as error:
            failures.append(error)
            lines.append(f"{kind:13} no: {str(error).removeprefix(kind + ': ')}")
            continue
        usable.append(kind)
        lines.append(f"{kind:13} yes: {', '.join(session.hooks)}")
        lines += [f"{'':13} left out: {hook}" for hook in session.missing]
        session.close()
    if usable:
        lines.append(f"pyegress will use {usable[0]}")
    else:
        lines.append(f"nothing attaches: {explain(failures)}")
    return lines, bool(usable)
