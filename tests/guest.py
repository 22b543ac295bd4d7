# SPDX-License-Identifier: MIT
"""Fetch Debian kernels and boot them in QEMU on the host's own file system."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import lzma
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

# A guest that has not reached its script by then hangs; booting takes 7 s alone, 30 s on a loaded machine.
BOOT_LIMIT_S = 180.0
SHARE = "security_model=none,readonly=on,multidevs=remap"
TOOLS = ("qemu-system-x86_64", "busybox", "modprobe", "depmod", "dpkg-deb")


class Unavailable(Exception):
    """This host cannot run the guest at all."""


class BootError(RuntimeError):
    """The guest did not come up, or did not finish its script."""


@dataclass(frozen=True)
class Release:
    """Where Debian ships one kernel series."""

    package: str
    suites: tuple[tuple[str, str], ...]


KERNELS = {
    "5.10": Release(
        r"linux-image-5\.10\.0-\d+-amd64", (("debian", "bullseye"), ("debian-security", "bullseye-security"))
    ),
    "6.1": Release(
        r"linux-image-6\.1\.0-\d+-amd64", (("debian", "bookworm"), ("debian-security", "bookworm-security"))
    ),
    "6.12": Release(
        r"linux-image-6\.12\.\d+\+deb12-amd64",
        (("debian", "bookworm-backports"), ("debian-security", "bookworm-security")),
    ),
}

_running: set[subprocess.Popen[bytes]] = set()
_stopping = threading.Event()


def cache_dir() -> Path:
    """Return the folder that keeps kernels between runs."""
    if own := os.environ.get("PYEGRESS_CACHE"):
        return Path(own).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "pyegress").absolute()


def check_host() -> None:
    """Raise Unavailable where no guest can be booted."""
    if platform.machine() != "x86_64":
        raise Unavailable(f"guests need an x86-64 host, this is {platform.machine()}")
    if os.geteuid() != 0:
        raise Unavailable("guests need root: they share the host's file system")
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise Unavailable(f"guests need {', '.join(missing)}")
    if not _virtme_run().exists():
        raise Unavailable(f"guests need virtme-ng: no {_virtme_run()}")


def kernel_dir(kernel: str) -> Path:
    """Return the unpacked package of a kernel series, fetching the newest one if none is cached."""
    pattern = KERNELS[kernel].package
    store = cache_dir() / "kernels"
    store.mkdir(parents=True, exist_ok=True)
    with _locked(store / f"{kernel}.lock"):
        if cached := [path for path in store.iterdir() if re.fullmatch(pattern, path.name)]:
            return max(cached, key=lambda path: version_key(path.name))
        with tempfile.TemporaryDirectory(dir=store, prefix=".fetch-") as scratch:
            package, deb = _download(kernel, Path(scratch))
            tree = Path(scratch, "tree")
            run("dpkg-deb", "-x", str(deb), str(tree))
            (version,) = (path.name for path in (tree / "lib/modules").iterdir())
            # kmod looks in /lib/modules or /usr/lib/modules, depending on how the distribution built it.
            (tree / "usr/lib").symlink_to("../lib")
            run("depmod", "-b", str(tree), version)
            return tree.rename(store / package)


def boot(
    kernel: str,
    script: Path | str,
    *,
    append: str = "",
    memory: str = "1G",
    cpus: int = 2,
    qemu_opts: Sequence[str] = (),
    timeout_s: float,
    log: Path,
) -> int:
    """Run a bash script (a path, or its text) as root inside a guest and return its exit status."""
    check_host()
    tree = kernel_dir(kernel)
    (image,) = tree.glob("boot/vmlinuz-*")
    with tempfile.TemporaryDirectory(dir=log.parent, prefix="guest-") as scratch:
        work = Path(scratch).absolute()
        if isinstance(script, str):
            (work / "script").write_text(script)
            script = work / "script"
        (work / "init").write_text(_init(work, script.absolute()))
        command = [
            *(str(_virtme_run()), f"--kimg={image}", "--mods=auto", f"--memory={memory}", f"--cpus={cpus}"),
            *("--disable-kvm", "--rw", "--force-9p", "--show-boot-console"),
            # Errors and worse reach the log, and an oops ends the guest instead of hanging a test.
            *(f"--kopt={option}" for option in ("loglevel=4", "oops=panic", *append.split())),
            f"--script-sh=bash {shlex.quote(str(work / 'init'))}",
            *("--qemu-opts", "-virtfs", f"local,path=/,mount_tag=cached,{SHARE}", *qemu_opts),
        ]
        for _ in range(2):
            finished = _attempt(command, work, timeout_s, log)
            if (work / "status").exists():
                return int((work / "status").read_text())
            if (work / "up").exists() or _stopping.is_set():
                break
        if not (work / "up").exists():
            what = "did not come up"
        else:
            what = "died in its script" if finished else f"did not finish its script in {timeout_s:.0f} s"
        raise BootError(f"guest {kernel} {what}; the end of {log}:\n{log_tail(log)}")


def stop_all() -> None:
    """Kill every guest of this process and let no other start."""
    _stopping.set()
    for process in list(_running):
        _kill(process)


def log_tail(log: Path, lines: int = 60) -> str:
    """Return the last lines of a console log, made printable."""
    try:
        text = log.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return "(no log)"
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f]", "", text)
    return "\n".join(text.splitlines()[-lines:])


def _attempt(command: Sequence[str], work: Path, timeout_s: float, log: Path) -> bool:
    """Boot once and tell whether the guest ended by itself."""
    started = time.monotonic()
    with log.open("wb") as console:
        # The console must be a file: QEMU opens it again by name, which a pipe does not survive.
        process = subprocess.Popen(
            command,
            env=os.environ | {"TMPDIR": str(work)},  # virtme-run leaves files behind when it is killed
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _running.add(process)
    try:
        if _stopping.is_set():
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(min(BOOT_LIMIT_S, timeout_s))
            return True
        if not (work / "up").exists():
            return False
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, timeout_s - (time.monotonic() - started)))
            return True
        return False
    finally:
        _kill(process)
        _running.discard(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End virtme-run and its QEMU, which share one process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _init(work: Path, script: Path) -> str:
    """Return the script that completes virtme's set-up of the guest and runs the real one."""
    # Every open() on the root, 9p without a cache, is a round trip out of the emulator: Python starts
    # twice as fast from a cached read-only view of the places that no test writes to.
    places: list[str] = []
    for place in sorted({"/usr", os.path.realpath(sys.base_prefix), os.path.realpath(sys.prefix)}):
        if not any(Path(place).is_relative_to(above) for above in places):
            places.append(place)
    binds = "\n".join(f"mount --bind {shlex.quote('/run/cached' + p)} {shlex.quote(p)}" for p in places)
    quoted = shlex.quote(str(work))
    return f"""
exec </dev/null >/dev/console 2>&1
touch {quoted}/up
mkdir -p /run/cached /run/modules
mount --bind /lib/modules /run/modules
if mount -t 9p -o ro,version=9p2000.L,trans=virtio,msize=512000,cache=loose cached /run/cached; then
{binds}
mount --bind /run/modules /lib/modules
fi
ensure() {{ mountpoint -q "$2" || mount -t "$1" "$1" "$2"; }}
ensure cgroup2 /sys/fs/cgroup
ensure debugfs /sys/kernel/debug
ensure tracefs /sys/kernel/tracing
ensure securityfs /sys/kernel/security
ensure bpf /sys/fs/bpf
ip link set lo up
bash {shlex.quote(str(script))}
echo $? >{quoted}/.status
mv {quoted}/.status {quoted}/status
"""


def _virtme_run() -> Path:
    return Path(sys.executable).parent / "virtme-run"


def _download(kernel: str, scratch: Path) -> tuple[str, Path]:
    """Return the newest package's name and file, from apt or straight from a Debian mirror."""
    return _download_by_apt(kernel, scratch) or _download_by_mirror(kernel, scratch)


def _download_by_apt(kernel: str, scratch: Path) -> tuple[str, Path] | None:
    if shutil.which("apt-get") is None:
        return None
    pattern = KERNELS[kernel].package
    known = run("apt-cache", "search", "--names-only", f"^{pattern}$").splitlines()
    packages = [name for line in known if re.fullmatch(pattern, name := line.split(" ")[0])]
    if not packages:
        return None
    package = max(packages, key=version_key)
    try:
        run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, cwd=scratch)
    except Unavailable:
        return None  # apt's lists outlive the packages they name
    (deb,) = scratch.glob("*.deb")
    return package, deb


def _download_by_mirror(kernel: str, scratch: Path) -> tuple[str, Path]:
    release = KERNELS[kernel]
    stanza_of = re.compile(rf"^Package: ({release.package})\n(?:.+\n)*", re.MULTILINE)
    found: list[tuple[str, str, str]] = []
    try:
        for archive, suite in release.suites:
            mirror = _mirror(archive)
            with _open_url(f"{mirror}/dists/{suite}/main/binary-amd64/Packages.xz") as reply:
                index = lzma.decompress(reply.read()).decode()
            found += [(match[1], mirror, match[0]) for match in stanza_of.finditer(index)]
        if not found:
            raise Unavailable(f"no Debian mirror has a {kernel} kernel")
        package, mirror, stanza = max(found, key=lambda entry: version_key(entry[0]))
        fields = dict(line.split(": ", 1) for line in stanza.splitlines() if not line.startswith(" "))
        deb = scratch / "kernel.deb"
        with _open_url(f"{mirror}/{fields['Filename']}") as reply, deb.open("wb") as file:
            shutil.copyfileobj(reply, file)
    except (OSError, lzma.LZMAError) as error:
        raise Unavailable(f"cannot fetch a {kernel} kernel: {error}") from error
    if hashlib.sha256(deb.read_bytes()).hexdigest() != fields["SHA256"]:
        raise Unavailable(f"{package} does not have the checksum its mirror lists")
    return package, deb


def _mirror(archive: str) -> str:
    """Return the mirror that apt's own sources name for an archive, or Debian's."""
    etc = Path("/etc/apt")
    for source in (etc / "sources.list", *sorted(etc.glob("sources.list.d/*"))):
        text = source.read_text() if source.is_file() else ""
        active = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
        if match := re.search(rf"https?://\S+/{archive}(?=/?(\s|$))", active):
            # Nothing here checks the archive's signature as apt does, so take TLS where it exists.
            return match[0].replace("http://deb.debian.org", "https://deb.debian.org")
    return f"https://deb.debian.org/{archive}"


def _open_url(url: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    proxies = urllib.request.getproxies()
    if shutil.which("apt-config"):
        for scheme in ("http", "https"):
            line = run("apt-config", "shell", "P", f"Acquire::{scheme}::Proxy").strip()
            if proxy := "".join(shlex.split(line.removeprefix("P="))):
                proxies.setdefault(scheme, proxy)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler(proxies))
    reply: contextlib.AbstractContextManager[IO[bytes]] = opener.open(url, timeout=60)
    return reply


def version_key(name: str) -> tuple[int, ...]:
    """Order packages by the numbers in their names."""
    return tuple(map(int, re.findall(r"\d+", name)))


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Return a command's stdout; Unavailable with what it said where it fails."""
    done = subprocess.run(
        command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Unavailable(f"{shlex.join(map(str, command))} failed: {done.stderr.strip()}")
    return done.stdout


def archive(tree: Path) -> bytes:
    """Pack a folder as the kernel takes it for its first file system; several may follow each other."""
    pack = "find . | cpio --quiet -o -H newc -R 0:0 | gzip -1"
    return subprocess.run(["sh", "-c", pack], cwd=tree, check=True, capture_output=True).stdout


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    for name in sys.argv[1:] or KERNELS:
        print(kernel_dir(name))
