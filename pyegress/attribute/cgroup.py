# SPDX-License-Identifier: MIT
"""What a cgroup's path tells of the process in it: its systemd unit, its container, its pod.

Whoever rules a cgroup names those below it: a user below `user@UID.service`, a container below its own cgroup.
So a system unit is only taken from where systemd puts it, as its cg_path_get_unit does (src/basic/cgroup-util.c),
and a container found inside a user's part or another container is marked with `owner` or `nested`: it is what they
say, and need not exist. The same goes for a service with Delegate= and User=, which a path doesn't show.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


class Place(NamedTuple):
    """Where a cgroup is; what its path doesn't tell is None."""

    path: str
    """From the root of its hierarchy; bytes that aren't UTF-8 as surrogates."""
    unit: str | None = None
    """The systemd system unit: `ssh.service`, `session-3.scope`, `user@1000.service`."""
    user_unit: str | None = None
    """The unit of a user's own systemd, below `user@UID.service`."""
    slice: str | None = None
    """The innermost slice around the system unit; None directly below the root, systemd's `-.slice`."""
    login_session: str | None = None
    """Number of the login session, as loginctl shows it."""
    container: str | None = None
    """The innermost container's id, 64 hex digits; for LXC and nspawn its name."""
    engine: str | None = None
    """docker, podman, containerd, crio, lxc, nspawn; None also where the path has a container's bare id."""
    pod: str | None = None
    """uid of the Kubernetes pod, with `-`; of a static pod 32 hex digits."""
    owner: int | None = None
    """uid of the user in whose slice or systemd it is."""
    nested: bool = False
    """The container is inside another one, which may have made it up."""


# Characters of unit_name_is_valid (src/basic/unit-name.c); of the types those that have a cgroup.
_UNIT_CHARS = r"[A-Za-z0-9:_.\\-]"
_UNIT = re.compile(rf"{_UNIT_CHARS}+(?:@[A-Za-z0-9:_.\\@-]+)?\.(?:service|scope|socket|mount|swap)")
_SLICE = re.compile(rf"{_UNIT_CHARS}+\.slice")
_UNIT_CHARS_MAX = 255
_USER_MANAGER = re.compile(r"user@(0|[1-9][0-9]{0,9})\.service")
_USER_SLICE = re.compile(r"user-(0|[1-9][0-9]{0,9})\.slice")
_SESSION = re.compile(r"session-([A-Za-z0-9]+)\.scope")
_UID_MAX = 0xFFFFFFFE

_PREFIXES = {
    "docker": "docker",
    "libpod": "podman",
    "libpod-payload": "podman",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "crio",
}
_PREFIX = "|".join(_PREFIXES)
_ID = "[0-9a-f]{64}"
_PREFIXED = re.compile(rf"({_PREFIX})-({_ID})(?:\.scope)?|{_UNIT_CHARS}+\.slice:({_PREFIX}):({_ID})")
"""The form with colons is what a runtime without systemd's help makes of a path that was meant for systemd."""
_BARE = re.compile(_ID)
_BARE_PARENTS = {"docker": "docker", "actions_job": "docker", "k8s.io": "containerd", "default": "containerd"}

_UID = "[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32}"
_POD = re.compile(
    rf"(?:{_UNIT_CHARS}+-)?kubepods(?:-burstable|-besteffort)?-pod({_UID})\.slice(?::({_PREFIX}):{_ID})?"
    rf"|pod({_UID})"
)

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}")
_MACHINE_SLICE = re.compile(rf"machine(?:-{_UNIT_CHARS}+)?\.slice")
_MACHINE = re.compile(r"machine-(.+)\.scope|systemd-nspawn@(.+)\.service")
_LIBVIRT = re.compile(r"(?:qemu|xen|ch)-.*|lxc-[0-9]+-(?P<lxc>.+)")


def place(path: str) -> Place:
    """What the path tells, for any text at all."""
    parts = [part for part in path.split("/") if part]
    after = _after_slices(parts, 0)
    unit = _unit(parts, after)
    inside, owner = None, None
    for part in parts[:after]:
        if match := _USER_SLICE.fullmatch(part):
            owner = _uid(match[1])
    if unit and (match := _USER_MANAGER.fullmatch(unit)):
        inside = _unit(parts, _after_slices(parts, after + 1))
        owner = _uid(match[1])
    session = _SESSION.fullmatch(unit or "")
    containers = [found for index in range(len(parts)) if (found := _container(parts, index))]
    container, engine = containers[-1] if containers else (None, None)
    return Place(
        path=path,
        unit=unit,
        user_unit=inside,
        slice=_unescaped(parts[after - 1]) if after else None,
        login_session=session[1] if session else None,
        container=container,
        engine=engine,
        pod=next((uid for part in reversed(parts) if (uid := _pod(part))), None),
        owner=owner,
        nested=len(containers) > 1,
    )


def walk(root: Path, limit: int = 65536) -> Iterator[tuple[int, str]]:
    """Inode number and path of each cgroup below a cgroup mount, the mount itself as "/", at most `limit`.

    Those nearer to the root come first: so a user who makes many doesn't keep the services from being listed.
    What can't be read or has gone is left out.
    """
    start = os.fsencode(root)
    try:
        pending = deque([(root.stat().st_ino, b"")])
    except OSError:
        return
    known = 1
    while pending:
        inode, path = pending.popleft()
        yield inode, path.decode(errors="surrogateescape") or "/"
        if known < limit:
            inner = _directories(start, path, limit - known)
            known += len(inner)
            pending.extend(inner)


def _directories(start: bytes, path: bytes, limit: int) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    try:
        with os.scandir(start + path) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    found.append((entry.inode(), path + b"/" + entry.name))
                    if len(found) >= limit:
                        break
    except OSError:
        pass
    return found


def _unescaped(part: str) -> str:
    """Without the `_` that systemd puts before a name that may be a file of the kernel (its cg_escape)."""
    return part.removeprefix("_")


def _after_slices(parts: list[str], index: int) -> int:
    while index < len(parts) and len(parts[index]) <= _UNIT_CHARS_MAX:
        if not _SLICE.fullmatch(_unescaped(parts[index])):
            break
        index += 1
    return index


def _unit(parts: list[str], index: int) -> str | None:
    name = _unescaped(parts[index]) if index < len(parts) else ""
    return name if len(name) <= _UNIT_CHARS_MAX and _UNIT.fullmatch(name) else None


def _uid(digits: str) -> int | None:
    uid = int(digits)
    return uid if uid <= _UID_MAX else None


def _pod(part: str) -> str | None:
    match = _POD.fullmatch(part)
    return (match[1] or match[3]).replace("_", "-") if match else None


def _container(parts: list[str], index: int) -> tuple[str, str | None] | None:
    """The container whose own cgroup `parts[index]` is, and its engine.

    The whole component must match, which leaves out the monitors beside containers: `libpod-conmon-ID.scope`,
    `crio-conmon-ID.scope`, `lxc.monitor.NAME`.
    """
    part = parts[index]
    parent = parts[index - 1] if index else ""
    if match := _PREFIXED.fullmatch(part):
        prefix, with_prefix, runtime, with_runtime = match.groups()
        return with_prefix or with_runtime, _PREFIXES[prefix or runtime]
    if _BARE.fullmatch(part):
        if parent == "libpod_parent":  # a pod of podman
            return None
        on_ecs = index >= 2 and parts[index - 2] == "ecs"
        return part, "docker" if on_ecs else _BARE_PARENTS.get(parent)
    if parent in ("lxc", "lxc.payload") or part.startswith("lxc.payload."):
        name = part.removeprefix("lxc.payload.")
        return (name, "lxc") if _NAME.fullmatch(name) else None
    return _machine(parts, index)


def _machine(parts: list[str], index: int) -> tuple[str, str] | None:
    """A container of systemd-nspawn, or of libvirt's LXC driver; other machines of systemd-machined are VMs.

    One of systemd-vmspawn is named just like one of systemd-nspawn. `supervisor` is systemd-nspawn itself.
    """
    match = _MACHINE.fullmatch(parts[index])
    if match is None or parts[index + 1 : index + 2] == ["supervisor"]:
        return None
    if match[1] and not (index and _MACHINE_SLICE.fullmatch(parts[index - 1])):
        return None
    name = re.sub(r"\\x([0-9a-f]{2})", lambda code: chr(int(code[1], 16)), match[1] or match[2])
    engine = "nspawn"
    if match[1] and (libvirt := _LIBVIRT.fullmatch(name)):
        name, engine = libvirt["lxc"] or "", "lxc"
    return (name, engine) if _NAME.fullmatch(name) else None
