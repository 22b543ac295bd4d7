# SPDX-License-Identifier: MIT
"""Names come from the engines' own files, and no file makes the reader wait, fail or believe a stranger."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pyegress.attribute import containers
from pyegress.attribute.cgroup import place
from pyegress.attribute.containers import FILE_BYTES, ContainerNames, whereabouts

ID = "3dd988081e7149463c043b5d9c57d7309e079c5e9290f91feba1cc45a04d6a5b"
OTHER = "0ca2b3cd20e5f55a2bbe8d4aa3f811cf7963b40f0542ad147054b0fcb60fc400"
POD = "2c48913c-b29f-11e7-9350-020968147796"
USER = "/user.slice/user-1000.slice/user@1000.service"
TASKS = "run/containerd/io.containerd.runtime.v2.task"
PODMAN = "containers/storage/overlay-containers"
HOME = "home/ann"

DOCKER_FILE = f"var/lib/docker/containers/{ID}/config.v2.json"
DOCKER: dict[str, Any] = {"ID": ID, "Name": "/web", "State": {"Running": True}, "Driver": "overlay2"}
PODMAN_LIST = [
    {"id": OTHER, "names": ["db"], "image": "x", "layer": "y"},
    {"id": ID, "names": ["web", "alias"], "metadata": "{}", "flags": {"MountLabel": ""}},
]

# the engine's file, its content, the path of the cgroup, name, engine. From github.com/moby/moby daemon/container,
# containers/storage containers.go, cri-o pkg/annotations, containerd internal/cri/annotations, nerdctl pkg/labels.
FOUND: list[tuple[str, object, str, str, str]] = [
    (DOCKER_FILE, DOCKER, f"/docker/{ID}", "web", "docker"),
    (DOCKER_FILE, DOCKER, f"/kubepods/burstable/pod{POD}/{ID}", "web", "docker"),
    (f"var/lib/{PODMAN}/containers.json", PODMAN_LIST, f"/machine.slice/libpod-{ID}.scope", "web", "podman"),
    (
        f"var/lib/{PODMAN}/volatile-containers.json",
        PODMAN_LIST,
        f"/libpod_parent/libpod-{ID}",
        "web",
        "podman",
    ),
    (
        f"{HOME}/.local/share/{PODMAN}/containers.json",
        PODMAN_LIST,
        f"{USER}/user.slice/libpod-{ID}.scope/container",
        "web",
        "podman",
    ),
    (
        f"{HOME}/.local/share/docker/containers/{ID}/config.v2.json",
        DOCKER,
        f"{USER}/user.slice/docker-{ID}.scope",
        "web",
        "docker",
    ),
    (
        f"run/{PODMAN}/{ID}/userdata/config.json",
        {"ociVersion": "1.0", "annotations": {"io.kubernetes.container.name": "web", "x": "y"}},
        f"/crio-{ID}",
        "web",
        "crio",
    ),
    (
        f"run/{PODMAN}/{ID}/userdata/config.json",
        {"annotations": {"io.kubernetes.container.name": "web"}},
        f"/kubepods/pod{POD}/{ID}",
        "web",
        "crio",
    ),
    (
        f"{TASKS}/k8s.io/{ID}/config.json",
        {"annotations": {"io.kubernetes.cri.container-name": "web"}, "process": {"args": ["x"]}},
        f"/kubepods/burstable/pod{POD}/{ID}",
        "web",
        "containerd",
    ),
    (
        f"run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io/{ID}/config.json",
        {"annotations": {"io.kubernetes.cri.container-name": "web"}},
        f"/kubepods.slice/cri-containerd-{ID}.scope",
        "web",
        "containerd",
    ),
    (
        f"{TASKS}/default/{ID}/config.json",
        {"annotations": {"nerdctl/name": "web"}},
        f"/default/{ID}",
        "web",
        "containerd",
    ),
]


@pytest.fixture(autouse=True)
def _users(monkeypatch: pytest.MonkeyPatch) -> None:
    """uid 1000 is ann, and there is nobody else."""

    def getpwuid(uid: int) -> pwd.struct_passwd:
        if uid != 1000:
            raise KeyError(uid)
        return pwd.struct_passwd(("ann", "x", 1000, 1000, "", f"/{HOME}", "/bin/sh"))

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)


def put(root: Path, path: str, content: object) -> Path:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return file


def name(root: Path, path: str) -> str | None:
    return ContainerNames(root).name(place(path))


@pytest.mark.parametrize(("file", "content", "path", "expected", "engine"), FOUND)
def test_found(tmp_path: Path, file: str, content: object, path: str, expected: str, engine: str) -> None:
    put(tmp_path, file, content)
    names = ContainerNames(tmp_path)
    assert names.name(place(path)) == expected
    assert names.engine(place(path)) == engine
    assert names.name(place(path.replace(ID, "f" * 64))) is None


@pytest.mark.parametrize(("file", "content", "path", "expected", "engine"), FOUND)
def test_every_prefix_of_a_file_is_taken(
    tmp_path: Path, file: str, content: object, path: str, expected: str, engine: str
) -> None:
    whole = json.dumps(content).encode()
    for size in range(len(whole)):
        put(tmp_path, file, whole[:size])
        assert name(tmp_path, path) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b'{"Name": 5}',
        b'{"Name": null}',
        b'{"Name": ""}',
        b'{"Name": "/"}',
        b'{"Name": "\xff"}',
        b'{"Name": "\\ud800"}',
        b"\xff\xfe",
        b'{"a": ' + b"[" * 100_000,
        b'{"Name": "/' + b"x" * 256 + b'"}',
        json.dumps(DOCKER).encode() + b" " * FILE_BYTES,
    ],
    ids=range(13),
)
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    put(tmp_path, DOCKER_FILE, content)
    assert name(tmp_path, f"/docker/{ID}") is None


@pytest.mark.parametrize(
    "content", [b'{"annotations": null}', b"{}", b'{"annotations": {"x": "y"}}', b'{"annotations": []}']
)
def test_bundle_without_a_name(tmp_path: Path, content: bytes) -> None:
    """As of a pod's pause container, and of docker's own containerd: it does not hide what docker says."""
    put(tmp_path, f"{TASKS}/moby/{ID}/config.json", content)
    put(tmp_path, f"run/{PODMAN}/{ID}/userdata/config.json", content)
    path = f"/kubepods/pod{POD}/{ID}"
    assert name(tmp_path, path) is None
    assert ContainerNames(tmp_path).engine(place(path)) is None
    put(tmp_path, DOCKER_FILE, DOCKER)
    assert ContainerNames(tmp_path).engine(place(path)) == "docker"


def test_lxc_and_nspawn_are_their_names(tmp_path: Path) -> None:
    assert name(tmp_path, "/lxc.payload.web") == "web"
    assert name(tmp_path, "/machine.slice/machine-web\\x2d1.scope/payload") == "web-1"
    assert name(tmp_path, "/system.slice/ssh.service") is None


def test_user_does_not_get_a_name_of_the_host(tmp_path: Path) -> None:
    put(tmp_path, DOCKER_FILE, DOCKER)
    put(tmp_path, f"var/lib/{PODMAN}/containers.json", PODMAN_LIST)
    put(
        tmp_path,
        f"run/{PODMAN}/{ID}/userdata/config.json",
        {"annotations": {"io.kubernetes.container.name": "x"}},
    )
    assert name(tmp_path, f"/docker/{ID}") == "web"
    for part in (f"docker-{ID}.scope", f"libpod-{ID}.scope", f"crio-{ID}", f"docker/{ID}", f"x/{ID}"):
        assert name(tmp_path, f"{USER}/{part}") is None
        assert name(tmp_path, f"/user.slice/user-1001.slice/user@1001.service/{part}") is None


def test_container_does_not_get_a_name_of_the_host(tmp_path: Path) -> None:
    put(tmp_path, DOCKER_FILE, DOCKER)
    assert name(tmp_path, f"/docker/{OTHER}/docker/{ID}") is None
    assert ContainerNames(tmp_path).engine(place(f"/docker/{OTHER}/docker/{ID}")) == "docker"


def test_another_user_is_not_asked(tmp_path: Path) -> None:
    put(tmp_path, f"{HOME}/.local/share/{PODMAN}/containers.json", PODMAN_LIST)
    assert name(tmp_path, f"{USER}/libpod-{ID}.scope") == "web"
    assert name(tmp_path, f"{USER}/libpod-{ID}.scope".replace("1000", "1001")) is None
    assert name(tmp_path, f"/machine.slice/libpod-{ID}.scope") is None


HOSTILE_PLACES = [
    (DOCKER_FILE, f"/docker/{ID}", DOCKER),
    (f"{HOME}/.local/share/{PODMAN}/containers.json", f"{USER}/libpod-{ID}.scope", PODMAN_LIST),
]


@pytest.mark.parametrize(("file", "path", "content"), HOSTILE_PLACES)
@pytest.mark.parametrize("kind", ["fifo", "symlink", "directory", "device", "sparse"])
def test_only_a_regular_file_of_bounded_size_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, path: str, content: object, kind: str
) -> None:
    """Nothing here waits: a FIFO without a writer would for ever. Another kind isn't even opened, only looked at."""
    target = put(tmp_path, file, content)
    assert name(tmp_path, path) == "web"
    target.rename(tmp_path / "real")
    if kind == "fifo":
        os.mkfifo(target)
    elif kind == "symlink":
        target.symlink_to(tmp_path / "real")
    elif kind == "directory":
        target.mkdir()
    elif kind == "device":
        try:
            os.mknod(target, 0o20600, os.makedev(1, 5))
        except PermissionError:
            pytest.skip("not allowed to make a device")
    else:
        with target.open("wb") as out:
            out.truncate(1 << 40)
    flags: list[int] = []
    really = os.open

    def opened(path: str, how: int, **options: int | None) -> int:
        flags.append(how)
        return really(path, how, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", opened)
    assert name(tmp_path, path) is None
    assert flags
    assert kind == "sparse" or all(how & os.O_PATH for how in flags)


@pytest.mark.parametrize("part", [".local", ".local/share", ".local/share/containers"])
def test_symlinks_below_a_home_are_not_followed(tmp_path: Path, part: str) -> None:
    put(tmp_path, f"{HOME}/.local/share/{PODMAN}/containers.json", PODMAN_LIST)
    assert name(tmp_path, f"{USER}/libpod-{ID}.scope") == "web"
    moved = (tmp_path / HOME / part).rename(tmp_path / "moved")
    (tmp_path / HOME / part).symlink_to(moved)
    assert name(tmp_path, f"{USER}/libpod-{ID}.scope") is None


def test_symlinks_of_root_are_followed(tmp_path: Path) -> None:
    put(tmp_path, DOCKER_FILE, DOCKER)
    moved = (tmp_path / "var/lib/docker").rename(tmp_path / "moved")
    (tmp_path / "var/lib/docker").symlink_to(moved)
    assert name(tmp_path, f"/docker/{ID}") == "web"


@pytest.mark.parametrize("part", [".local/share", ".local/share/" + PODMAN + "/containers.json"])
def test_mounts_below_a_home_are_not_entered(tmp_path: Path, part: str) -> None:
    """A user's FUSE may never answer. A bind mount of the same directory is told from it by its mount alone."""
    put(tmp_path, f"{HOME}/.local/share/{PODMAN}/containers.json", PODMAN_LIST)
    target = tmp_path / HOME / part
    place_text = f"{USER}/libpod-{ID}.scope"
    assert name(tmp_path, place_text) == "web"
    if subprocess.run(["mount", "--bind", target, target], capture_output=True).returncode:
        pytest.skip("not allowed to mount")
    try:
        assert target.exists()
        assert name(tmp_path, place_text) is None
    finally:
        subprocess.run(["umount", target], check=True)


def test_a_lease_does_not_hold_the_reader(tmp_path: Path) -> None:
    """Whoever has a write lease on a file makes others wait for up to 45 s in open (fcntl(2))."""
    file = put(tmp_path, f"{HOME}/.local/share/{PODMAN}/containers.json", PODMAN_LIST)
    hold = (
        "import fcntl, signal, sys; f = open(sys.argv[1], 'r+'); signal.signal(signal.SIGIO, signal.SIG_IGN);"
    )
    hold += f"fcntl.fcntl(f, {fcntl.F_SETLEASE}, fcntl.F_WRLCK); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, file],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as holder:
        assert holder.stdout
        if holder.stdout.readline() != "held\n":
            pytest.skip("no leases on this file system")
        assert name(tmp_path, f"{USER}/libpod-{ID}.scope") is None
        holder.communicate("")
    assert name(tmp_path, f"{USER}/libpod-{ID}.scope") == "web"


def test_asked_once_for_a_place(tmp_path: Path) -> None:
    """A missing name too; it is asked for again in another cgroup of the container."""
    names = ContainerNames(tmp_path)
    assert names.name(place(f"/docker/{ID}")) is None
    file = put(tmp_path, DOCKER_FILE, DOCKER)
    assert names.name(place(f"/docker/{ID}")) is None
    assert names.name(place(f"/docker/{ID}/init.scope")) == "web"
    file.unlink()
    assert names.name(place(f"/docker/{ID}/init.scope")) == "web"


def test_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_PLACES_KEPT", 2)
    names = ContainerNames(tmp_path)
    assert names.name(place(f"/docker/{ID}")) is None
    put(tmp_path, DOCKER_FILE, DOCKER)
    for other in ("a", "b"):
        names.name(place(f"/docker/{other * 64}"))
    assert names.name(place(f"/docker/{ID}")) == "web"


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    for file, content, *_ in FOUND:
        put(tmp_path, file, content)
    before = sorted(path.name for path in Path("/proc/self/fd").iterdir())
    for _, _, path, *_ in FOUND:
        for asked in (path, path.replace(ID, "f" * 64)):
            name(tmp_path, asked)
    assert sorted(path.name for path in Path("/proc/self/fd").iterdir()) == before


def test_whereabouts(tmp_path: Path) -> None:
    """A container's path and name, as fields of its processes."""
    file = tmp_path / DOCKER_FILE
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(DOCKER))
    path = f"/system.slice/docker-{ID}.scope"
    assert whereabouts(path, ContainerNames(tmp_path)) == {
        "cgroup": path,
        "unit": f"docker-{ID}.scope",
        "user_unit": None,
        "slice": "system.slice",
        "login_session": None,
        "container": ID,
        "container_engine": "docker",
        "container_name": "web",
        "pod": None,
    }
