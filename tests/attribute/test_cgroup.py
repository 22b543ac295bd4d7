# SPDX-License-Identifier: MIT
"""The unit, container and pod of real paths, and nothing for paths that only resemble them."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

from pyegress.attribute.cgroup import Place, place, walk
from pyegress.kernel import cgroup2_root

ID = "3dd988081e7149463c043b5d9c57d7309e079c5e9290f91feba1cc45a04d6a5b"
OTHER = "0ca2b3cd20e5f55a2bbe8d4aa3f811cf7963b40f0542ad147054b0fcb60fc400"
POD = "2c48913c-b29f-11e7-9350-020968147796"
POD_ = POD.replace("-", "_")
STATIC = "c704ef4c297ab11032b83ce52cbfc87b"
USER = "/user.slice/user-1000.slice/user@1000.service"
PODS = "/kubepods.slice/kubepods-burstable.slice"

# systemd.slice(5), systemd's cg_path_get_unit and its test (src/test/test-cgroup-util.c), pam_systemd(8).
SYSTEMD: list[tuple[str, dict[str, Any]]] = [
    ("/", {}),
    ("", {}),
    ("/init.scope", {"unit": "init.scope"}),
    ("/system.slice", {"slice": "system.slice"}),
    ("/system.slice/ssh.service", {"unit": "ssh.service", "slice": "system.slice"}),
    ("//system.slice//ssh.service/", {"unit": "ssh.service", "slice": "system.slice"}),
    ("/system.slice/docker.service/sub/x.service", {"unit": "docker.service", "slice": "system.slice"}),
    (
        "/system.slice/system-getty.slice/getty@tty1.service",
        {"unit": "getty@tty1.service", "slice": "system-getty.slice"},
    ),
    ("/system.slice/dev-hugepages.mount", {"unit": "dev-hugepages.mount", "slice": "system.slice"}),
    ("/system.slice/a\\x2db.service", {"unit": "a\\x2db.service", "slice": "system.slice"}),
    ("/system.slice/_cpu.service", {"unit": "cpu.service", "slice": "system.slice"}),
    ("/system.slice/__x.service", {"unit": "_x.service", "slice": "system.slice"}),
    ("/_cpu.slice/x.service", {"unit": "x.service", "slice": "cpu.slice"}),
    (
        "/user.slice/user-1000.slice/session-3.scope",
        {"unit": "session-3.scope", "slice": "user-1000.slice", "login_session": "3", "owner": 1000},
    ),
    (
        "/user.slice/user-0.slice/session-c1.scope",
        {"unit": "session-c1.scope", "slice": "user-0.slice", "login_session": "c1", "owner": 0},
    ),
    (
        f"{USER}/init.scope",
        {
            "unit": "user@1000.service",
            "user_unit": "init.scope",
            "slice": "user-1000.slice",
            "owner": 1000,
        },
    ),
    (
        f"{USER}/app.slice/app-gnome-firefox-4211.scope",
        {
            "unit": "user@1000.service",
            "user_unit": "app-gnome-firefox-4211.scope",
            "slice": "user-1000.slice",
            "owner": 1000,
        },
    ),
]

# What a user, or who rules another cgroup, may name so.
HOSTILE: list[tuple[str, dict[str, Any]]] = [
    (
        f"{USER}/nginx.service/system.slice/ssh.service",
        {
            "unit": "user@1000.service",
            "user_unit": "nginx.service",
            "slice": "user-1000.slice",
            "owner": 1000,
        },
    ),
    (
        f"{USER}/system.slice/session-7.scope",
        {
            "unit": "user@1000.service",
            "user_unit": "session-7.scope",
            "slice": "user-1000.slice",
            "owner": 1000,
        },
    ),
    (f"{USER}/x", {"unit": "user@1000.service", "slice": "user-1000.slice", "owner": 1000}),
    ("/x/system.slice/ssh.service", {}),
    ("/../system.slice/ssh.service", {}),
    ("/x/user@1000.service/y.service", {}),
    ("/a.service/user@1000.service/y.service", {"unit": "a.service"}),
    ("/user@.service/y.service", {}),
    ("/user@01000.service/y.service", {"unit": "user@01000.service"}),
    ("/user@root.service/y.service", {"unit": "user@root.service"}),
    ("/user@4294967295.service", {"unit": "user@4294967295.service"}),
    ("/session-.scope", {"unit": "session-.scope"}),
    ("/session-1-2.scope", {"unit": "session-1-2.scope"}),
    ("/system.slice/.service", {"slice": "system.slice"}),
    ("/system.slice/ssh.service\n", {"slice": "system.slice"}),
    ("/system.slice/ssh#.service", {"slice": "system.slice"}),
    ("/system.slice/s\udcffh.service", {"slice": "system.slice"}),
    ("/system.slice/ssh.servicex", {"slice": "system.slice"}),
    ("/a@b.slice/ssh.service", {}),
    (
        "/" + "a" * 249 + ".slice/" + "b" * 247 + ".service",
        {"slice": "a" * 249 + ".slice", "unit": "b" * 247 + ".service"},
    ),
    ("/" + "a" * 250 + ".slice/b.service", {}),
    ("/" + "b" * 248 + ".service", {}),
]

# path, engine, container, pod
CONTAINERS: list[tuple[str, str | None, str, str | None]] = [
    # docs.docker.com/engine/containers/runmetrics: cgroupfs and systemd drivers
    (f"/docker/{ID}", "docker", ID, None),
    (f"/docker/{ID}/system.slice/nginx.service", "docker", ID, None),
    (f"/system.slice/docker-{ID}.scope", "docker", ID, None),
    (f"/system.slice/docker-{ID}.scope/init.scope", "docker", ID, None),
    # moby daemon/oci_linux.go cgroupsPath, and a runtime that takes it as it is
    (f"/system.slice/system.slice:docker:{ID}", "docker", ID, None),
    # docs.docker.com/engine/security/rootless
    (f"{USER}/user.slice/docker-{ID}.scope", "docker", ID, None),
    # docker inside docker, and kind (kind.sigs.k8s.io): the innermost
    (f"/docker/{OTHER}/docker/{ID}", "docker", ID, None),
    (f"/system.slice/docker-{OTHER}.scope/docker/{ID}", "docker", ID, None),
    (
        f"/system.slice/docker-{OTHER}.scope/kubelet.slice/kubelet-kubepods.slice"
        f"/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{POD_}.slice/cri-containerd-{ID}.scope",
        "containerd",
        ID,
        POD,
    ),
    (f"/docker/{OTHER}/kubelet/kubepods/burstable/pod{POD}/{ID}", None, ID, POD),
    # Amazon ECS agent (cgroup of a task), GitHub's runners; docker run --cgroup-parent=/batch
    (f"/ecs/5cf3a1b2c3d4e5f60718293a4b5c6d7e/{ID}", "docker", ID, None),
    (f"/ecstasks.slice/ecstasks-5cf3a1b2.slice/docker-{ID}.scope", "docker", ID, None),
    (f"/actions_job/{ID}", "docker", ID, None),
    (f"/batch/{ID}", None, ID, None),
    # podman libpod/oci_conmon_linux.go and container_internal_linux.go; crun's `container` subgroup
    (f"/machine.slice/libpod-{ID}.scope", "podman", ID, None),
    (f"/machine.slice/libpod-{ID}.scope/container", "podman", ID, None),
    (f"/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope/container", "podman", ID, None),
    (f"{USER}/user.slice/libpod-{ID}.scope/container", "podman", ID, None),
    (f"{USER}/user.slice/user-libpod_pod_{OTHER}.slice/libpod-{ID}.scope", "podman", ID, None),
    (f"/libpod_parent/libpod-{ID}", "podman", ID, None),
    (f"/libpod_parent/{OTHER}/libpod-{ID}", "podman", ID, None),
    # podman run --cgroups=split, the default of podman-systemd.unit(5)
    (f"/system.slice/web.service/libpod-payload-{ID}", "podman", ID, None),
    (f"{USER}/app.slice/web.service/libpod-payload-{ID}", "podman", ID, None),
    # containerd internal/cri/server/helpers_linux.go getCgroupsPath; kubelet pkg/kubelet/cm
    (f"{PODS}/kubepods-burstable-pod{POD_}.slice/cri-containerd-{ID}.scope", "containerd", ID, POD),
    (f"/kubepods.slice/kubepods-pod{POD_}.slice/cri-containerd-{ID}.scope", "containerd", ID, POD),
    (f"{PODS}/kubepods-burstable-pod{STATIC}.slice/cri-containerd-{ID}.scope", "containerd", ID, STATIC),
    (
        f"/system.slice/containerd.service/kubepods-besteffort-pod{POD_}.slice:cri-containerd:{ID}",
        "containerd",
        ID,
        POD,
    ),
    (f"/kubepods-besteffort-pod{POD_}.slice:cri-containerd:{ID}", "containerd", ID, POD),
    (f"/kubepods/burstable/pod{POD}/{ID}", None, ID, POD),
    (f"/kubepods/besteffort/pod{STATIC}/{ID}", None, ID, STATIC),
    (f"/kubepods/pod{POD}/{ID}/init.scope", None, ID, POD),
    (f"/k8s.io/{ID}", "containerd", ID, None),
    # nerdctl pkg/cmd/container, on v1 `/NAMESPACE/ID`
    (f"/system.slice/nerdctl-{ID}.scope", "containerd", ID, None),
    (f"{USER}/user.slice/nerdctl-{ID}.scope", "containerd", ID, None),
    (f"/default/{ID}", "containerd", ID, None),
    # cri-dockerd
    (f"{PODS}/kubepods-burstable-pod{POD}.slice/docker-{ID}.scope", "docker", ID, POD),
    # CRI-O internal/config/cgmgr
    (f"{PODS}/kubepods-burstable-pod{POD_}.slice/crio-{ID}.scope", "crio", ID, POD),
    (f"{PODS}/kubepods-burstable-pod{POD_}.slice/crio-{ID}.scope/container", "crio", ID, POD),
    (f"/kubepods/burstable/pod{POD}/crio-{ID}", "crio", ID, POD),
    (f"/crio-{ID}", "crio", ID, None),
    # lxc src/lxc/cgroups (2, 3 and 4), Proxmox, LXD with a project
    ("/lxc/web", "lxc", "web", None),
    ("/lxc/101/ns/system.slice/ssh.service", "lxc", "101", None),
    ("/lxc.payload/web/init.scope", "lxc", "web", None),
    ("/lxc.payload.web/system.slice/ssh.service", "lxc", "web", None),
    ("/lxc.payload.project_c-1.x", "lxc", "project_c-1.x", None),
    (f"{USER}/app.slice/lxc.payload.web", "lxc", "web", None),
    (f"/lxc.payload.web/docker/{ID}", "docker", ID, None),
    # libvirt.org/cgroups.html
    ("/machine.slice/machine-lxc\\x2d12345\\x2ddemo\\x2d1.scope/libvirt", "lxc", "demo-1", None),
    # systemd src/nspawn/nspawn-cgroup.c and nspawn-register.c, machinectl(1)
    ("/machine.slice/machine-web\\x2d1.scope/payload/init.scope", "nspawn", "web-1", None),
    ("/machine.slice/machine-web.scope/system.slice/ssh.service", "nspawn", "web", None),
    ("/machine.slice/machine-web.scope", "nspawn", "web", None),
    ("/machine.slice/systemd-nspawn@web-1.service/payload/system.slice", "nspawn", "web-1", None),
    ("/system.slice/systemd-nspawn@web.service/payload", "nspawn", "web", None),
]

NESTS = (f"/docker/{OTHER}/", f"/system.slice/docker-{OTHER}.scope/", "/lxc.payload.web/docker")

NO_CONTAINERS = [
    "/system.slice/docker.service",
    "/system.slice/containerd.service",
    f"/docker/{ID[:-1]}",
    f"/docker/{ID}0",
    f"/docker/{ID.upper()}",
    f"/docker/{ID}\n",
    f"/docker/{ID[:-1]}\u0665",
    f"/docker/{ID[:-1]}\udcff",
    f"/system.slice/docker-{ID[:-1]}.scope",
    f"/system.slice/docker-{ID}.scopex",
    f"/system.slice/xdocker-{ID}.scope",
    f"/system.slice/rkt-{ID}.scope",
    f"/system.slice:x:{ID}",
    "/docker/web",
    # a step of `docker build`: BuildKit's ids are not containers'
    "/system.slice/system.slice:docker:jvifp9a6b1lxa1kuw8bwfcovf",
    f"/machine.slice/libpod-conmon-{ID}.scope",
    f"{USER}/user.slice/libpod-conmon-{ID}.scope",
    "/libpod_parent/conmon",
    f"/libpod_parent/{ID}",
    "/system.slice/web.service/runtime",
    f"{PODS}/kubepods-burstable-pod{POD_}.slice/crio-conmon-{ID}.scope",
    f"/system.slice/crio-conmon-{ID}.scope",
    f"{PODS}/kubepods-burstable-pod{POD_}.slice",
    "/lxc",
    "/lxc.payload",
    "/lxc.payload.",
    "/lxc.monitor.web",
    "/lxc.monitor/web",
    "/lxc/..",
    "/lxc/a\x1b[31m",
    "/lxc.payload.a b",
    "/lxc/" + "a" * 256,
    "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope",
    "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator",
    "/machine.slice/machine-test.slice/machine-qemu\\x2d16\\x2dtest14.scope/libvirt/vcpu0",
    "/machine.slice/machine-web.scope/supervisor",
    "/machine.slice/systemd-nspawn@web.service/supervisor",
    "/system.slice/machine-web.scope",
    f"{USER}/machine-web.scope",
    "/machine.slice/machine-a\\x2fb.scope",
    "/machine.slice/machine-a\\x0ab.scope",
    "/machine.slice/systemd-nspawn@.service",
]

PODLESS = [
    "/kubepods.slice/kubepods-burstable.slice",
    f"{PODS}/kubepods-burstable-pod{POD_[:-1]}.slice",
    f"{PODS}/kubepods-burstable-pod{POD_}0.slice",
    f"{PODS}/kubepods-burstable-pod{POD_}.slice\n",
    f"{PODS}/kubepods-guaranteed-pod{POD_}.slice",
    f"/xkubepods-pod{POD_}.slice",
    f"/kubepods/burstable/xpod{POD}",
    "/kubepods/podman",
]


@pytest.mark.parametrize(("path", "fields"), SYSTEMD + HOSTILE)
def test_units(path: str, fields: dict[str, Any]) -> None:
    assert place(path) == Place(path=path, **fields)


@pytest.mark.parametrize(("path", "engine", "container", "pod"), CONTAINERS)
def test_containers(path: str, engine: str | None, container: str, pod: str | None) -> None:
    """The same below whatever an init inside makes of its cgroup; the innermost one is it."""
    for inner in (path, path + "/init.scope", path + "/x.slice/y.service"):
        found = place(inner)
        assert (found.engine, found.container, found.pod) == (engine, container, pod)
        assert found.nested == path.startswith(NESTS)


@pytest.mark.parametrize("path", NO_CONTAINERS)
def test_not_a_container(path: str) -> None:
    found = place(path)
    assert (found.engine, found.container) == (None, None)
    # The monitor of a container inside another one is in the outer one.
    assert place(f"/docker/{OTHER}{path}").container == OTHER


@pytest.mark.parametrize("path", PODLESS)
def test_not_a_pod(path: str) -> None:
    assert place(path).pod is None


def test_hybrid_v1_path_is_the_same_as_the_v2_path() -> None:
    """/proc/PID/cgroup of a hybrid host has several lines of one place; kernel cgroup-v1 and cgroup-v2 docs."""
    lines = f"""\
        8:pids:/system.slice/docker-{ID}.scope
        1:name=systemd:/system.slice/docker-{ID}.scope
        0::/system.slice/docker-{ID}.scope"""
    places = {place(line.split(":", 2)[2]) for line in lines.splitlines()}
    assert [(found.unit, found.container) for found in places] == [(f"docker-{ID}.scope", ID)]


def test_user_cannot_be_a_container_of_the_host() -> None:
    """Rootless docker looks like that too: the owner says whose word it is."""
    found = place(f"{USER}/docker-{ID}.scope")
    assert (found.unit, found.container, found.owner) == ("user@1000.service", ID, 1000)


def test_any_text_is_taken() -> None:
    """No exception, and no component comes out that isn't strictly one."""
    chance = random.Random(23)
    pieces = [
        "/",
        "docker-",
        "libpod-",
        ".scope",
        ".slice",
        ".service",
        ":",
        "\\x2d",
        "\\x",
        "user@",
        "1" * 5000,
    ]
    pieces += [
        "session-",
        "_",
        "pod",
        "kubepods",
        "lxc",
        "machine",
        "machine-",
        "-",
        "@",
        "..",
        "\0",
        "\n",
        "\udcff",
    ]
    pieces += [ID, POD, POD_, "system", "é", " "]
    for _ in range(20000):
        path = "".join(chance.choices(pieces, k=chance.randrange(12)))
        found = place(path)
        assert found.path == path
        for text in (found.unit, found.user_unit, found.slice, found.container, found.pod):
            assert text is None or (text.isascii() and text.isprintable() and "/" not in text and text)


def test_walk_of_the_real_tree() -> None:
    root = cgroup2_root()
    if root is None or not os.access(root, os.W_OK):
        pytest.skip("no writable cgroup v2")
    outer = root / f"pyegress-test-{os.getpid()}"
    inner = outer / os.fsdecode(b"in\xffner")
    try:
        outer.mkdir()
        inner.mkdir()
        found = {path: inode for inode, path in walk(root)}
        assert found["/"] == root.stat().st_ino
        assert found["/" + outer.name] == outer.stat().st_ino
        assert found[f"/{outer.name}/in\udcffner"] == inner.stat().st_ino
    finally:
        for path in (inner, outer):
            if path.exists():
                path.rmdir()
    assert outer.name not in {path.strip("/") for _, path in walk(root)}


def test_walk_takes_directories_only(tmp_path: Path) -> None:
    """No file, and no symlink: one to a parent would never end."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "cgroup.procs").touch()
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert list(walk(tmp_path)) == [
        (tmp_path.stat().st_ino, "/"),
        ((tmp_path / "a").stat().st_ino, "/a"),
        ((tmp_path / "a" / "b").stat().st_ino, "/a/b"),
    ]


@pytest.mark.parametrize("limit", [1, 2, 5, 11, 31, 32])
def test_walk_is_bounded_and_takes_the_nearest_first(tmp_path: Path, limit: int) -> None:
    for outer in range(10):
        for inner in range(2):
            (tmp_path / str(outer) / str(inner)).mkdir(parents=True)
    depths = [0] + [1] * 10 + [2] * 20
    paths = [path for _, path in walk(tmp_path, limit)]
    assert len(set(paths)) == len(paths)
    assert [len(path.rstrip("/").split("/")) - 1 for path in paths] == depths[:limit]


def test_walk_skips_what_vanishes(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c" / "d").mkdir(parents=True)
    found = []
    for _, path in walk(tmp_path):
        found.append(path)
        if path == "/":
            (tmp_path / "a" / "b").rmdir()
            (tmp_path / "a").rmdir()
    assert {"/c", "/c/d"} <= set(found)
    assert "/a/b" not in found
    assert list(walk(tmp_path / "absent")) == []
