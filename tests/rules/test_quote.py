# SPDX-License-Identifier: MIT
"""The same text comes out of a shell and of iptables-restore, and nothing else happens."""

import re
import subprocess
from pathlib import Path

import pytest

from pyegress.rules.quote import comment, quoted, visible, word

HOSTILE = [
    ("curl", "curl"),
    ("Web Content", "Web Content"),
    ("it's", "it's"),
    ('a"b', 'a"b'),
    ("a\\b", "a\\b"),
    ("$(touch pwned)", "$(touch pwned)"),
    ("`touch pwned`", "`touch pwned`"),
    ("$HOME ${PATH}", "$HOME ${PATH}"),
    ("; touch pwned", "; touch pwned"),
    ('"; touch pwned; "', '"; touch pwned; "'),
    ('\\"; touch pwned #', '\\"; touch pwned #'),
    ("& touch pwned &", "& touch pwned &"),
    ("-j", "-j"),
    ("-t nat", "-t nat"),
    ("--comment", "--comment"),
    ("#x", "#x"),
    ("*?[a]~{b,c}", "*?[a]~{b,c}"),
    ("", "unknown process"),
    ("!", "\\u0021"),
    ("a!touch", "a\\u0021touch"),
    ("\\!", "\\\\\\u0021"),
    ("a\nCOMMIT", "a\\nCOMMIT"),
    ("a\\nb", "a\\\\nb"),
    ("a\\", "a\\"),
    ("\\\\", "\\\\\\"),
    ("\x1b[31m", "\\u001b[31m"),
    (b"\xff\xfe".decode(errors="surrogateescape"), "\\udcff\\udcfe"),
    ("\\udcff", "\\\\udcff"),
    ("a\u202eb", "a\\u202eb"),
    ("l" * 300, "l" * 255),
    ("é" * 200, "é" * 127),
    ("x" + "é" * 200, "x" + "é" * 127),
    ("x" * 253 + "\x1b", "x" * 253),
    ("$" * 300, "$" * 255),
]


@pytest.mark.parametrize(("name", "shown"), HOSTILE)
def test_reader_gets_what_is_shown(name: str, shown: str) -> None:
    text = comment(name)
    inside = re.fullmatch(r'"((?:[^"\\$`!]|\\["\\$`])*)"', text)
    assert inside
    assert text.isprintable()
    assert re.sub(r"\\(.)", r"\1", inside[1]) == shown
    assert len(shown.encode()) <= 255


def unshow(text: str) -> str:
    """Back from the textual escapes, as the documentation of the module has them."""

    def one(match: re.Match[str]) -> str:
        named, code = match[1], match[2]
        return chr(int(code, 16)) if code else {"n": "\n", "r": "\r", "t": "\t"}.get(named, named)

    single = re.sub(r"\\(?:([nrt\\])|u(....))", one, text)
    pair = re.compile("[\ud800-\udbff][\udc00-\udfff]")
    return pair.sub(lambda m: m[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le"), single)


def test_reversible() -> None:
    alphabet = ["\\", "n", "x", "u", "!", "\n", "\udcff", "é", "\U000e0001", "0"]
    texts = [a + b + c + d for a in alphabet for b in alphabet for c in alphabet for d in alphabet]
    shown = [visible(text, 255) for text in texts]
    assert len(set(shown)) == len(texts)
    assert [unshow(text) for text in shown] == texts


@pytest.mark.parametrize("limit", range(12))
def test_cut_between_characters(limit: int) -> None:
    text = "é\x1b\\é$"
    cut = visible(text, limit)
    assert len(cut.encode()) <= limit
    assert visible(text, 99).startswith(cut)
    assert text.startswith(unshow(cut))


def test_word() -> None:
    assert word("curl") == "curl"
    assert word("kworker/u8:ev") == "kworker/u8:ev"
    for text in ("-j", "a b", "$x", "", "~x", "a;b", "x\n"):
        assert word(text) == quoted(text)
        assert word(text).startswith('"')


@pytest.mark.parametrize("shell", ["sh", "bash", "bash with history"])
def test_shells_take_it_as_one_inert_word(shell: str, tmp_path: Path) -> None:
    if shell == "bash with history":
        start = ["bash", "-c", "set -o history -o histexpand; history -s 'touch pwned'; . ./script"]
    else:
        start = [shell, "./script"]
    script = tmp_path / "script"
    lines = [f"printf '%s\\0' {comment(name)} >> out" for name, _ in HOSTILE]
    script.write_text("\n".join(lines) + "\n")
    done = subprocess.run(start, cwd=tmp_path, capture_output=True, check=True)
    assert done.stderr == b""
    assert (tmp_path / "out").read_bytes().decode().split("\0")[:-1] == [shown for _, shown in HOSTILE]
    assert {path.name for path in tmp_path.iterdir()} == {"script", "out"}


def test_the_harness_sees_an_active_name(tmp_path: Path) -> None:
    (tmp_path / "script").write_text('printf "%s" "$(touch pwned)"\n')
    subprocess.run(["sh", "./script"], cwd=tmp_path, check=True)
    assert (tmp_path / "pwned").exists()
