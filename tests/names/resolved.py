# SPDX-License-Identifier: MIT
"""systemd-resolved, taken out of its package: installing that would change how the host itself resolves names."""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from pathlib import Path
from typing import Any

from tests.guest import Unavailable, cache_dir, run


def program() -> Path:
    """The program that fits the host's systemd; Unavailable says why there is none."""
    if missing := [tool for tool in ("apt-get", "dpkg-deb", "setpriv") if shutil.which(tool) is None]:
        raise Unavailable(f"systemd-resolved needs {', '.join(missing)}")
    version = run("dpkg-query", "-W", "-f", "${Version}", "systemd")
    folder = cache_dir() / f"systemd-resolved-{version}"
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
            package = f"systemd-resolved={version}"
            run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", package, cwd=Path(scratch))
            (deb,) = Path(scratch).glob("*.deb")
            run("dpkg-deb", "-x", deb, Path(scratch, "tree"))
            # Everybody may look into it: it is no root that runs it.
            Path(scratch, "tree").chmod(0o755)
            Path(scratch, "tree").rename(folder)
    return folder / "lib/systemd/systemd-resolved"


def asked_by_varlink(path: Path, name: str) -> list[str]:
    """IPv4 addresses of a name, as nss-resolve asks for them: no DNS is between."""
    call = {"method": "io.systemd.Resolve.ResolveHostname", "parameters": {"name": name, "family": 2}}
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(30)
        client.connect(str(path))
        client.sendall(json.dumps(call).encode() + b"\0")
        said = b""
        while not said.endswith(b"\0"):
            said += client.recv(65536)
    told: list[dict[str, Any]] = json.loads(said[:-1])["parameters"]["addresses"]
    return [".".join(map(str, each["address"])) for each in told]
