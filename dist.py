# SPDX-License-Identifier: MIT
"""Makes what is given to others: the source, and from that a wheel which brings its libraries along.

`python dist.py [FOLDER]` (dist/ if none is named) leaves both there, in place of what was there of pyegress.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent
ZLIB, OWN_ZLIB = "libz.so.1", "libz-pyegress.so.1"


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """The command's stdout; ends with the cause when it fails."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, "PATH": path, **environment},
            check=True,
            text=True,
            stdout=subprocess.PIPE,
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"dist.py: {error}")


def libraries(folder: Path) -> None:
    """libbpf and libelf as they are here, but with a zlib of their own.

    auditwheel takes zlib for something that every system has; a Python that was built with its own needs none.
    """
    for name in ("libbpf.so.1", "libelf.so.1", ZLIB):
        found = run("cc", f"-print-file-name={name}", cwd=folder).strip()
        if not Path(found).is_absolute():
            sys.exit(f"dist.py: {name} is not installed (apt-get install libbpf-dev)")
        shutil.copyfile(found, folder / name)
        run("patchelf", "--replace-needed", ZLIB, OWN_ZLIB, folder / name, cwd=folder)
    run("patchelf", "--set-soname", OWN_ZLIB, folder / ZLIB, cwd=folder)
    (folder / ZLIB).rename(folder / OWN_ZLIB)


def make(target: Path) -> None:
    """Leave the source distribution and the wheel in a folder."""
    target.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        built, brought, repaired = folder / "built", folder / "libraries", folder / "repaired"
        for made in (built, brought, repaired):
            made.mkdir()
        # From elsewhere, because `-m build` here would be build.py.
        run(sys.executable, "-m", "build", "--no-isolation", "--outdir", built, ROOT, cwd=folder)
        libraries(brought)
        (wheel,) = built.glob("*.whl")
        run(
            *(sys.executable, "-m", "auditwheel", "repair", "--wheel-dir", repaired, wheel),
            cwd=folder,
            AUDITWHEEL_LD_LIBRARY_PATH=str(brought),
        )
        for old in (*target.glob("pyegress-*.whl"), *target.glob("pyegress-*.tar.gz")):
            old.unlink()
        for new in (*repaired.iterdir(), *built.glob("*.tar.gz")):
            shutil.copy(new, target)
            print(target / new.name)


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").absolute())
