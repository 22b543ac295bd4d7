# SPDX-License-Identifier: MIT
"""Users that a thread goes on as."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from pyegress import users
from pyegress.errors import UsageError

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = """
import json, os, threading
from pyegress import users

def ids():
    return [*os.getresuid(), *os.getresgid(), sorted(os.getgroups())]

def go_on(found):
    users.become(users.User("two", 65533, 65532, (65532, 65531)))
    found.append(ids())
    one = threading.Thread(target=lambda: found.append(ids()))
    one.start()
    one.join()
    try:
        users.become(users.User("root", 0, 0, (0,)))
    except PermissionError as error:
        found.append(error.strerror)

os.setgroups([7])
found = [ids()]
thread = threading.Thread(target=go_on, args=[found])
thread.start()
thread.join()
print(json.dumps([*found, ids()]))
"""


@needs_root
def test_one_thread_and_its_own_are_of_the_user_for_good() -> None:
    """Another one stays what it was."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    before = [0, 0, 0, 0, 0, 0, [7]]
    after = [65533, 65533, 65533, 65532, 65532, 65532, [65531, 65532]]
    assert json.loads(done.stdout) == [before, after, after, "Operation not permitted", before]


def test_one_that_is_there() -> None:
    """With its groups, its own among them."""
    entry = pwd.getpwuid(os.geteuid())
    user = users.named(entry.pw_name)
    assert user[:3] == (entry.pw_name, entry.pw_uid, entry.pw_gid)
    assert entry.pw_gid in user.groups


@pytest.mark.parametrize(
    ("name", "told"), [("rot", "did you mean 'root'"), ("", "known: "), ("a\0", "no such user")]
)
def test_one_that_is_not(name: str, told: str) -> None:
    """The nearest is named."""
    with pytest.raises(UsageError, match=told):
        users.named(name)
