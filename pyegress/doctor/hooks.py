# SPDX-License-Identifier: MIT
"""Each kind of eBPF hook, really attached for a moment: it has to see a connection that is made for it."""

from __future__ import annotations

import errno
import os
import socket
import time
from pathlib import Path
from typing import Any, NamedTuple

from pyegress import kernel
from pyegress.doctor.finding import Finding
from pyegress.errors import EgressError
from pyegress.escape import display
from pyegress.session import AttachError, Session, Settings

PATIENCE_S = 3.0
"""For a record to come out of the ring, on a machine with much else to do."""
_READ_MS = 100
_HERE = "127.0.0.1"
_DISCARD = 9
_KPROBES_ENABLED = Path("/sys/kernel/debug/kprobes/enabled")


class Trial(NamedTuple):
    """What came of trying a kind."""

    kind: str
    error: Exception | None = None
    """Why it did not attach."""
    hooks: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    saw: bool = False
    """Whether the connection was seen: hooks can be attached and never be called."""
    doubt: Exception | None = None
    """Why that could not be tried."""


def attempt(kind: str) -> Trial:
    """Attach with the settings of a run, have a connection made to this host itself, and detach."""
    try:
        session = Session(kind, Settings(report_loopback=True))
    except Exception as error:  # such as a native module that isn't there
        return Trial(kind, error)
    trial = Trial(kind, None, tuple(session.hooks), tuple(session.missing))
    try:
        return trial._replace(saw=_sees(session))
    except (OSError, EgressError) as error:
        return trial._replace(doubt=error)
    finally:
        session.close()


def finding(trial: Trial) -> Finding:
    """What it means."""
    kind, error = trial.kind, trial.error
    if error is not None:
        said = (
            str(error).removeprefix(f"{kind}: ")
            if isinstance(error, AttachError)
            else f"{type(error).__name__}: {error}"
        )
        return Finding(kind, "fails", display(said), remedy(kind, error))
    hooks = ", ".join(trial.hooks)
    if trial.doubt is not None:
        told = f"attached ({hooks}), but no connection could be made to see: {display(str(trial.doubt))}"
        return Finding(kind, "unknown", told)
    if not trial.saw:
        told = f"attached ({hooks}), but a connection made for it was not seen"
        return Finding(kind, "fails", told, _unseen(kind))
    if trial.missing:
        left_out = display(", ".join(trial.missing))
        way_on = "nothing, if no program here uses what they are for; else try another kind of hooks"
        return Finding(kind, "limited", f"{hooks}; left out: {left_out}", way_on)
    return Finding(kind, "works", hooks)


def remedy(kind: str, error: Exception) -> str:
    """What to do about a kind that doesn't attach."""
    if not isinstance(error, AttachError):
        return "the installation is not whole: install pyegress again, or run `make build`"
    missing = [one for one in kernel.missing_capabilities() if one != "CAP_NET_ADMIN" or kind == "cgroup"]
    if missing:
        return f"missing {', '.join(missing)}: run as root, for example with sudo"
    if found := kernel.cause(error.codes, error.log):
        return found
    if kind != "cgroup" and kernel.function_tracing_is_off():
        return kernel.FTRACE_ON
    if kind == "kprobe" and not kernel.has_kprobes():
        return "this kernel has no kprobes: boot one with CONFIG_KPROBE_EVENTS=y, or use other hooks"
    if kind == "cgroup" and kernel.cgroup2_root() is None:
        return "mount -t cgroup2 none /sys/fs/cgroup"
    if errno.EPERM in error.codes:
        return "capabilities are enough: the kernel, a security module or a seccomp filter forbids it"
    return f"for the kernel's own words: pyegress run --debug -I ebpf:attach:{kind}"


def _unseen(kind: str) -> str:
    if kind == "kprobe" and _reads(_KPROBES_ENABLED, "0"):
        return f"kprobes are switched off: echo 1 > {_KPROBES_ENABLED}"
    if kind == "cgroup":
        return "mount the host's whole cgroup v2 hierarchy, or use other hooks"
    if kernel.function_tracing_is_off():
        return kernel.FTRACE_ON
    return f"see whether something switched tracing off ({_KPROBES_ENABLED}, {kernel.FTRACE_ENABLED})"


def _sees(session: Session) -> bool:
    with socket.socket() as taken:
        try:
            # Bound and not listening: nobody else can have the port, and nobody answers.
            taken.bind((_HERE, 0))
            port = taken.getsockname()[1]
        except OSError:
            # No loopback here: a connect that fails is seen as well.
            port = _DISCARD
        _connect(port)
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        records = session.read(_READ_MS)
        if records and any(event.dport == port for event in _events(session, records)):
            return True
    return False


def _connect(port: int) -> None:
    """In another process, because hooks leave out our own; not a new program, which we might not be let run."""
    with socket.socket() as own:
        # A firewall may swallow it, and being wanted is enough.
        own.setblocking(False)
        child = os.fork()
        if child == 0:
            try:
                own.connect_ex((_HERE, port))
            finally:
                os._exit(0)
        os.waitpid(child, 0)


def _events(session: Session, records: memoryview) -> list[Any]:
    return list(session.ffi.from_buffer("struct egress_event[]", records))


def _reads(path: Path, text: str) -> bool:
    try:
        return path.read_text().strip() == text
    except OSError:
        return False
