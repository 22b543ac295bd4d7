# SPDX-License-Identifier: MIT
"""Lines are split as the programs split them."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyegress.rules.iptables_words import BadLineError, OpenQuoteError, restore_words, shell_words
from pyegress.rules.quote import exact, quoted
from tests.netns import needs_netfilter, own_netns, run
from tests.rules.test_quote import HOSTILE


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" -A  OUTPUT\t-j ACCEPT ", ["-A", "OUTPUT", "-j", "ACCEPT"]),
        ('--comment "a \\"b\\" \\\\ \\$x"', ["--comment", 'a "b" \\ $x']),
        ('--path "q\\\'x"', ["--path", "q'x"]),
        ('--comment "" x', ["--comment", "", "x"]),
        ('a"b c"d e', ["ab c", "d", "e"]),
        ("a\\b", ["a\\b"]),
        ("it's", ["it's"]),
        ("a\u00a0b\u2028", ["a\u00a0b\u2028"]),
    ],
)
def test_restore(text: str, words: list[str]) -> None:
    assert restore_words(text) == words


@pytest.mark.parametrize("text", ['"', 'a "b', '"a\\"', '-A "x" "'])
def test_open_quotes(text: str) -> None:
    with pytest.raises(OpenQuoteError):
        restore_words(text)
    with pytest.raises(BadLineError):
        shell_words(text)


@needs_netfilter
def test_quotes_within_a_word() -> None:
    """As iptables-restore has it."""
    line = '-A INPUT -m comment --com"ment" a"b c" -j "ACC"EPT'
    assert restore_words(line) == ["-A", "INPUT", "-m", "comment", "--comment", "ab c", "-j", "ACC", "EPT"]
    text = "*filter\n" + line.replace('"ACC"EPT', 'ACC"EPT"') + "\nCOMMIT\n"
    with own_netns():
        subprocess.run(["iptables-restore"], input=text.encode(), check=True)
        assert '--comment "ab c" -j ACCEPT' in run("iptables -S")


PLAIN = st.text(st.characters(min_codepoint=32, max_codepoint=0x2FF, exclude_characters="!"), max_size=20)


@settings(max_examples=200)
@given(st.lists(PLAIN, min_size=1, max_size=4))
def test_what_is_quoted_comes_back(texts: list[str]) -> None:
    line = " ".join(map(exact, texts))
    assert restore_words(line) == texts
    assert shell_words(line) == texts


@pytest.mark.parametrize(("name", "shown"), [pair for pair in HOSTILE if pair[0]])
def test_hostile_names(name: str, shown: str) -> None:
    assert restore_words(quoted(name)) == shell_words(quoted(name)) == [shown]


@pytest.mark.parametrize(
    "text",
    [
        "a b",
        "'a b' c",
        'a"b c"d',
        "a\\ b",
        "'$(x)'",
        'x # "',
        "a#b",
        '"a\\b"',
        "\"it's\" 'a\"b'",
        "-d 1/2,3:4",
    ],
)
def test_as_a_shell_does(text: str) -> None:
    done = subprocess.run(["sh", "-c", f"printf '%s\\0' {text}"], capture_output=True, check=True)
    assert shell_words(text) == done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize(
    "text", ["a; b", "a | b", "a & b", "$(a)", "`a`", "$a", '"$a"', "a > b", "(a)", "a \\"]
)
def test_what_a_shell_would_act_upon(text: str) -> None:
    with pytest.raises(BadLineError, match="not a plain command"):
        shell_words(text)
