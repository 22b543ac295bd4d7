# SPDX-License-Identifier: MIT
"""The names that people gave to containers, from the files in which their engines keep them.

Only the files' usual places are read, never a socket or a command. A user's files are the user's to write: such a
name is what the user says. It is looked for only in the home of the user who owns the cgroup, and there is no way
for the user to make the reader wait: no symlink and no mount below the home is followed, no device or FIFO is opened,
and a lease on the file makes O_NONBLOCK fail (fcntl(2)).
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pyegress.attribute.cgroup import Place, place

FILE_BYTES = 1 << 20
"""Longer files are not read."""
LIST_BYTES = 8 << 20
"""The same for the list of all of root's podman containers."""
NAME_CHARS = 255
"""What is longer is no name."""
_PLACES_KEPT = 4096
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_NAME_ONLY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_CONTAINERD_STATES = ("run/containerd", "run/k3s/containerd")
_CONTAINERD_NAMES = ("io.kubernetes.cri.container-name", "nerdctl/name")
_CRIO_NAMES = ("io.kubernetes.container.name",)

_Read = Callable[[str, int], bytes | None]
_T = TypeVar("_T")


class _Docker(msgspec.Struct):
    """config.v2.json of docker."""

    name: str = msgspec.field(name="Name", default="")


class _Stored(msgspec.Struct):
    """An element of containers.json (github.com/containers/storage)."""

    id: str
    names: list[str] | None = None


class _Bundle(msgspec.Struct):
    """config.json of the OCI runtime specification."""

    annotations: dict[str, str] | None = None


class ContainerNames:
    """Names of containers, each looked up once: a later `docker rename` is not seen."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._root = root
        self._found = lru_cache(_PLACES_KEPT)(self._find)

    def name(self, place: Place) -> str | None:
        """The container's name; None where it has none, or where one is not to be found or not to be believed."""
        return self._found(place)[1]

    def engine(self, place: Place) -> str | None:
        """The container's engine: where the path doesn't tell, the one whose files have the container's name."""
        return self._found(place)[0]

    def _find(self, place: Place) -> tuple[str | None, str | None]:
        engine, container = place.engine, place.container
        if container is None:
            return None, None
        if engine in ("lxc", "nspawn"):
            return engine, container
        # The files of the host don't know containers of a container, but it may have named one after the host's.
        if place.nested:
            return engine, None
        for candidate in (engine,) if engine else ("containerd", "crio", "docker"):
            name = self._named(candidate, container, place.owner or 0)
            if name and len(name) <= NAME_CHARS:
                return candidate, name
        return engine, None

    def _named(self, engine: str, container: str, owner: int) -> str | None:
        if owner:
            home = _home(self._root, owner)
            if home is None:
                return None
            read: _Read = partial(_read_below, home)
            data, limit = ".local/share", FILE_BYTES
        else:
            read = partial(_read, self._root)
            data, limit = "var/lib", LIST_BYTES
        if engine == "docker":
            return _docker_name(read, f"{data}/docker", container)
        if engine == "podman":
            return _podman_name(read, f"{data}/containers/storage", container, limit)
        if owner:
            return None
        if engine == "crio":
            path = f"run/containers/storage/overlay-containers/{container}/userdata/config.json"
            return _annotation(read, path, _CRIO_NAMES)
        return self._containerd_name(read, container)

    def _containerd_name(self, read: _Read, container: str) -> str | None:
        for state in _CONTAINERD_STATES:
            tasks = f"{state}/io.containerd.runtime.v2.task"
            try:
                namespaces = sorted(path.name for path in (self._root / tasks).iterdir())
            except OSError:
                continue
            for namespace in namespaces:
                name = _annotation(read, f"{tasks}/{namespace}/{container}/config.json", _CONTAINERD_NAMES)
                if name:
                    return name
        return None


def whereabouts(path: str, names: ContainerNames) -> dict[str, Any]:
    """What a cgroup's path tells, as fields of Process."""
    at = place(path)
    return {
        "cgroup": at.path,
        "unit": at.unit,
        "user_unit": at.user_unit,
        "slice": at.slice,
        "login_session": at.login_session,
        "container": at.container,
        "container_engine": names.engine(at),
        "container_name": names.name(at),
        "pod": at.pod,
    }


def _docker_name(read: _Read, data: str, container: str) -> str | None:
    config = _decoded(read(f"{data}/containers/{container}/config.v2.json", FILE_BYTES), _Docker)
    return config.name.removeprefix("/") if config else None


def _podman_name(read: _Read, storage: str, container: str, limit: int) -> str | None:
    # Those of `podman run --rm` are in the second.
    for file in ("containers.json", "volatile-containers.json"):
        stored = _decoded(read(f"{storage}/overlay-containers/{file}", limit), list[_Stored])
        for one in stored or ():
            if one.id == container and one.names:
                return one.names[0]
    return None


def _annotation(read: _Read, path: str, keys: tuple[str, ...]) -> str | None:
    bundle = _decoded(read(path, FILE_BYTES), _Bundle)
    annotations = bundle.annotations if bundle else None
    return next((annotations[key] for key in keys if key in annotations), None) if annotations else None


def _decoded(content: bytes | None, kind: type[_T]) -> _T | None:
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None


def _home(root: Path, uid: int) -> Path | None:
    try:
        home = Path(pwd.getpwuid(uid).pw_dir)
    except (KeyError, OverflowError):
        return None
    return root / home.relative_to("/") if home.is_absolute() else None


def _read(root: Path, path: str, limit: int) -> bytes | None:
    """A file of the system, whose folders root may have put anywhere."""
    try:
        file = os.open(root / path, _NAME_ONLY)
        try:
            return _content(file, limit)
        finally:
            os.close(file)
    except OSError:
        return None


def _read_below(home: Path, path: str, limit: int) -> bytes | None:
    """A file of a user: a mount may be the user's own FUSE and never answer, a symlink may lead to one."""
    try:
        file = os.open(home, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            mount = _mount(file)
            for part in path.split("/"):
                inner = os.open(part, _NAME_ONLY, dir_fd=file)
                os.close(file)
                file = inner
                # Unlike fstat, this doesn't ask the file system.
                if _mount(file) != mount:
                    raise OSError(errno.EXDEV, "a mount below the home", path)
            return _content(file, limit)
        finally:
            os.close(file)
    except OSError:
        return None


def _mount(file: int) -> bytes:
    lines = Path(f"/proc/self/fdinfo/{file}").read_bytes().splitlines()
    for line in lines:
        if line.startswith(b"mnt_id:"):
            return line
    raise OSError(errno.ENOTSUP, "no mnt_id in fdinfo")


def _content(path_only: int, limit: int) -> bytes | None:
    """What a file has that was opened with O_PATH; None unless it is a regular file of at most `limit` bytes."""
    if not stat.S_ISREG(os.fstat(path_only).st_mode):
        return None
    with os.fdopen(os.open(f"/proc/self/fd/{path_only}", _OPEN), "rb", buffering=0) as file:
        # No more than what it had when opened: an appender can't keep the reader here.
        size = os.fstat(file.fileno()).st_size
        return file.read(size) if size <= limit else None
