# SPDX-License-Identifier: MIT
"""Tools of Debian and PyPI in a folder of their own: nothing is installed, and no daemon of theirs is started."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import guest

DEBIAN = ("bpfcc-tools", "libbpf-tools", "bpftrace", "ulogd2", "auditd", "tcpdump", "opensnitch", "sysdig")
PYPI = ("picosnitch==1.0.3",)
PLACES = ("lib", "sbin", "bin")
"""What older packages have outside /usr."""


def unpacked(kernel: str) -> Path:
    """The folder, made once: as a host's root that has the tools, what this host has already left out.

    With the headers of that kernel's package, which bcc compiles with. Raises Unavailable.
    """
    version = kernel.removeprefix("linux-image-")
    headers = (f"linux-headers-{version}", f"linux-headers-{version.removesuffix('-amd64')}-common")
    asked = hashlib.sha256(repr((DEBIAN, PYPI, headers)).encode()).hexdigest()[:12]
    store = guest.cache_dir() / "peers"
    tree = store / asked
    if tree.exists():
        return tree
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store, prefix=".fetch-") as scratch:
        made = Path(scratch, "tree")
        _debian(Path(scratch), made, headers)
        pypi = made / "pypi"
        guest.run(sys.executable, "-m", "pip", "install", "-q", "--target", pypi, *PYPI)
        return made.rename(tree)


def version(tree: Path, package: str) -> str:
    """Of a package of Debian that is in the folder; empty where this host had it already."""
    return (tree / "versions" / package).read_text() if (tree / "versions" / package).exists() else ""


def _debian(scratch: Path, tree: Path, headers: tuple[str, ...]) -> None:
    apt = ("apt-get", "-qq", "-y", "-o", "APT::Sandbox::User=root")
    cache = ("-o", f"Dir::Cache::archives={scratch}")
    (scratch / "partial").mkdir()
    guest.run(*apt, "update")
    guest.run(*apt, *cache, "install", "--download-only", "--reinstall", "--no-install-recommends", *DEBIAN)
    # By themselves: the kernel's own package is among what they depend on.
    guest.run(*apt, "download", *headers, cwd=scratch)
    for place in PLACES:
        (tree / "usr" / place).mkdir(parents=True)
        (tree / place).symlink_to(f"usr/{place}")
    (tree / "versions").mkdir()
    for package in sorted(scratch.glob("*.deb")):
        with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", package], stdout=subprocess.PIPE) as reader:
            unpack = ["tar", "-x", "--keep-directory-symlink", "-C", str(tree)]
            subprocess.run(unpack, stdin=reader.stdout, check=True)
        name, number, _ = package.name.split("_")
        (tree / "versions" / name).write_text(number.replace("%3a", ":"))
