# SPDX-License-Identifier: MIT
"""An emulated arm64 machine in QEMU: Debian's kernel and Python for it, in memory only, and pyegress cross-built."""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import requires
from pathlib import Path

from tests.guest import Unavailable, archive, cache_dir, run, version_key

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ("qemu-system-aarch64", "aarch64-linux-gnu-gcc", "apt-get", "dpkg-deb", "cpio", "gzip")
PACKAGES = ("python3", "libpython3-dev", "libbpf-dev", "busybox-static", "bpftool")
KERNEL = r"linux-image-6\.12\.[0-9]+\+deb[0-9]+-arm64"
PLATFORMS = ("manylinux2014_aarch64", "manylinux_2_28_aarch64")
UNNEEDED = ("usr/include", "usr/share", "usr/lib/python3/dist-packages", "var", "etc")
INIT = """#!/bin/busybox sh
export PATH=/bin:/usr/bin:/sbin:/usr/sbin PYTHONPATH=/app
/bin/busybox --install -s /bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tracefs tracefs /sys/kernel/tracing
mount -t tmpfs tmp /tmp
ip link set lo up
sh /script
poweroff -f
"""


def machine() -> Path:
    """The folder with the kernel, its first file system and what to compile against; Unavailable says why not."""
    if missing := [tool for tool in TOOLS if not shutil.which(tool)]:
        raise Unavailable(f"an arm64 guest needs {', '.join(missing)}")
    store = cache_dir() / "arm64"
    store.mkdir(parents=True, exist_ok=True)
    with (store / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (store / "machine").exists():
            with tempfile.TemporaryDirectory(dir=store) as scratch:
                _make(Path(scratch, "machine"), Path(scratch)).rename(store / "machine")
    return store / "machine"


def package(machine: Path, target: Path) -> None:
    """pyegress and what it needs, built for arm64, in a folder."""
    (python,) = (machine / "tree/usr/include").glob("python3.*")
    wheels = target.parent / "wheels"
    needed = [line for line in requires("pyegress") or () if not re.search("extra ==|x86_64", line)]
    run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--only-binary", ":all:", "--dest", wheels),
        *("--python-version", python.name.removeprefix("python"), *(f"--platform={p}" for p in PLATFORMS)),
        *needed,
    )
    for wheel in wheels.iterdir():
        shutil.unpack_archive(wheel, target, "zip")
    shutil.copytree(ROOT / "pyegress", target / "pyegress", ignore=shutil.ignore_patterns("*.so", "*.pyc"))
    native = target / "pyegress/_native"
    code = "import build, pathlib, sys; build.compile_objects('aarch64', pathlib.Path(sys.argv[1]))"
    run(sys.executable, "-c", code, native, cwd=ROOT)
    (libbpf,) = (machine / "tree").glob("usr/lib/aarch64-linux-gnu/libbpf.so.1")
    run(
        *("aarch64-linux-gnu-gcc", "-shared", "-fPIC", "-O2", f"-I{ROOT / 'bpf'}", f"-I{native}"),
        *(f"-I{python}", f"-I{python.parent}", *map(str, sorted(native.glob("*.c"))), str(libbpf)),
        *("-Wl,--allow-shlib-undefined", "-o", str(native / "_egress.abi3.so")),
    )


def boot(machine: Path, script: str, app: Path, scratch: Path, timeout_s: float) -> str:
    """What a script of busybox's sh wrote to the console; `app` is /app there, on Python's path."""
    tree = scratch / "overlay"
    tree.mkdir()
    shutil.move(app, tree / "app")
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    (tree / "script").write_text(script)
    first = scratch / "root.gz"
    first.write_bytes((machine / "root.gz").read_bytes() + archive(tree))
    command: list[str | Path] = [
        *("qemu-system-aarch64", "-M", "virt", "-cpu", "max,pauth-impdef=on", "-smp", "1", "-m", "2G"),
        *("-nographic", "-no-reboot", "-nic", "none", "-kernel", machine / "vmlinuz", "-initrd", first),
        *("-append", "console=ttyAMA0 rdinit=/init quiet loglevel=0 panic=-1"),
    ]
    try:
        said = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=timeout_s, check=False
        ).stdout
    except subprocess.TimeoutExpired as late:  # what it said until then tells where it hangs
        said = late.stdout or b""
    first.unlink()
    return said.decode(errors="replace").replace("\r", "")


def _make(target: Path, scratch: Path) -> Path:
    """Fetch it by an apt of its own, so that this machine's never hears of another architecture."""
    (scratch / "lists/partial").mkdir(parents=True)
    (scratch / "archives/partial").mkdir(parents=True)
    (scratch / "status").touch()
    settings = {
        "APT::Architecture": "arm64",
        "APT::Architectures": "arm64",
        "APT::Sandbox::User": "root",
        "Dir::State::lists": scratch / "lists",
        "Dir::State::status": scratch / "status",
        "Dir::Cache": scratch,
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    run("apt-get", "-qq", *options, "update")
    found = run("apt-cache", *options, "search", "--names-only", f"^{KERNEL}$").splitlines()
    kernels = [name for line in found if re.fullmatch(KERNEL, name := line.split(" ")[0])]
    if not kernels:
        raise Unavailable("apt knows no arm64 kernel 6.12")
    newest = max(kernels, key=version_key)
    run("apt-get", "-qq", *options, "download", newest, cwd=scratch)
    run(
        *("apt-get", "-qq", *options, "install", "--download-only", "--no-install-recommends", "-y"),
        *PACKAGES,
    )
    target.mkdir()
    (deb,) = scratch.glob("linux-image-*.deb")
    run("dpkg-deb", "-x", deb, scratch / "kernel")
    (image,) = (scratch / "kernel/boot").glob("vmlinuz-*")
    shutil.copy(image, target / "vmlinuz")
    for deb in (scratch / "archives").glob("*.deb"):
        run("dpkg-deb", "-x", deb, target / "tree")
    root = scratch / "root"
    shutil.copytree(target / "tree", root, symlinks=True)
    for name in UNNEEDED:
        shutil.rmtree(root / name, ignore_errors=True)
    for name in ("dev", "proc", "sys", "tmp", "etc"):
        (root / name).mkdir(exist_ok=True)
    (root / "bin/sh").unlink(missing_ok=True)
    (root / "bin/sh").symlink_to("busybox")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    (target / "root.gz").write_bytes(archive(root))
    return target
