# SPDX-License-Identifier: MIT
"""A browser without a screen, and what it makes of a page."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--hide-scrollbars", "--disable-dev-shm-usage"),
)
_TIMEOUT_S = 120


def program_or_skip() -> str:
    """Where it is; a test that needs it is skipped where it isn't, and fails in CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        why = "chromium is not installed"
        if os.environ.get("CI"):
            pytest.fail(f"{why}, which CI does not allow")
        pytest.skip(why)
    return found


def browse(page: Path | str, folder: Path, *options: str) -> str:
    """What the browser says on stdout of a page, a file or an address, with a profile that is new."""
    address = page.absolute().as_uri() if isinstance(page, Path) else page
    profile = folder / "profile"
    shutil.rmtree(profile, ignore_errors=True)
    done = subprocess.run(
        [program_or_skip(), *_QUIET, f"--user-data-dir={profile}", *options, address],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def dom(page: Path | str, folder: Path) -> str:
    """The document after all scripts that the browser runs."""
    return browse(page, folder, "--dump-dom", "--virtual-time-budget=2000")


def screenshot(page: Path, folder: Path, *options: str) -> Path:
    """A picture of its beginning."""
    made = folder / "page.png"
    made.unlink(missing_ok=True)
    browse(page, folder, f"--screenshot={made}", "--window-size=1280,2400", *options)
    return made
