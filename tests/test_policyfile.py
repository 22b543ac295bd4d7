# SPDX-License-Identifier: MIT
"""Policy files: what they may say, and where each mistake is."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyegress.errors import UsageError
from pyegress.patterns import KINDS
from pyegress.policyfile import Group, read
from pyegress.tomlfile import FILE_BYTES


def written(folder: Path, content: str | bytes) -> str:
    """The path of a file with this content."""
    path = folder / "policy.toml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def test_everything(tmp_path: Path) -> None:
    """Single values are lists of one; each group has its place."""
    path = written(
        tmp_path,
        'default = "drop"\n# [[allow]]\n\n[[allow]]\ncomm = "curl"\nport = [443, "8000-8100"]\n'
        '  [[ allow ]] # second\ncidr = ["10.0.0.0/8"]\nprotocol = "udp"\nuser = ["root", "0"]\n',
    )
    default, groups = read(path)
    assert default == "drop"
    assert groups == [
        (f"policy:{path}:4: [[allow]] 1", Group(comm=["curl"], port=[443, "8000-8100"])),
        (
            f"policy:{path}:7: [[allow]] 2",
            Group(cidr=["10.0.0.0/8"], protocol=["udp"], user=["root", "0"]),
        ),
    ]


def test_line_is_left_out_where_it_is_not_sure(tmp_path: Path) -> None:
    """Tables written as an array, or a line of a longer text that looks like one."""
    for content in (
        'allow = [{comm = "a"}]\n',
        'allow = [{comm = """\n[[allow]]\n"""}, {comm = "b"}]',
    ):
        path = written(tmp_path, content)
        assert read(path).groups[0][0] == f"policy:{path}: [[allow]] 1"


def test_empty(tmp_path: Path) -> None:
    """It says nothing, and so leaves all to the default."""
    assert read(written(tmp_path, "# nothing\n")) == (None, [])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('defualt = "drop"', ": defualt: no such key; did you mean 'default'?"),
        ('default = "deny"', ": default: invalid enum value 'deny'; known: accept, drop, reject"),
        ("default = 1", ": default: expected `str | null`, got `int`"),
        ('[allow]\ncomm = "a"', ": allow: must be written as [[allow]]"),
        ("allow = 1", ": allow: must be written as [[allow]]"),
        ("allow = [1]", ": allow: expected `object`, got `int`"),
        (
            "\n[[allow]]\n",
            ':2: [[allow]] 1: has no key and so would allow everything; that is default = "accept"',
        ),
        ('[[allow]]\ncom = "a"', ":1: [[allow]] 1: com: no such key; did you mean 'comm'?"),
        (
            '[[allow]]\ncomm = "a"\n[[allow]]\ncomm = []',
            ":3: [[allow]] 2: comm: expected `array` of length >= 1",
        ),
        ("[[allow]]\ncomm = 1", ":1: [[allow]] 1: comm: expected `str`, got `int`"),
        ('[[allow]]\nport = ["a", 1.5]', ":1: [[allow]] 1: port: expected `int | str`, got `float`"),
        ("[[allow]]\nport = true", ":1: [[allow]] 1: port: expected `int | str`, got `bool`"),
        (
            '[[allow]]\nprotocol = "sctp"',
            ":1: [[allow]] 1: protocol: invalid enum value 'sctp'; known: tcp, udp",
        ),
        ('[[allow]]\n"\\u001b\\n" = 1', r":1: [[allow]] 1: \u001b\n: no such key; known: "),
        ('default = "drop"\n[[allow]\n', ":2: not TOML: expected ']]' at the end of an array declaration"),
        ('default = "drop', ": not TOML: unterminated string (at end of document)"),
        ("a = 1\na = 2\n", ":2: not TOML: cannot overwrite a value"),
        (b'default = "drop"\n# \xff\n', ":2: must be UTF-8"),
        (b"\xef\xbb\xbf", ":1: not TOML: invalid statement"),
        ("a = " + "[" * 100_000, ": not TOML: "),
        ("a = " + "1" * 10_000, ": not TOML: "),
        ("#" * (FILE_BYTES + 1), ": must be at most 1M"),
    ],
)
def test_mistake(tmp_path: Path, content: str | bytes, message: str) -> None:
    """It is named with file and line, on one line of printable text."""
    path = written(tmp_path, content)
    with pytest.raises(UsageError) as raised:
        read(path)
    text = str(raised.value)
    assert text.startswith(f"policy:{path}{message}"), text
    assert text.isprintable()


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/no/such/file", "policy:/no/such/file: No such file or directory"),
        ("/", "policy:/: Is a directory"),
        ("a\0b", r"policy:a\u0000b: not a path"),
    ],
)
def test_file_that_can_not_be_read(path: str, message: str) -> None:
    """The reason is the system's."""
    with pytest.raises(UsageError) as raised:
        read(path)
    assert str(raised.value) == message


def test_keys_are_those_of_the_patterns() -> None:
    """A kind of pattern that is added is one of a policy file too."""
    assert set(Group.__struct_fields__) == {*KINDS, "cidr", "name", "port", "protocol"}
