# SPDX-License-Identifier: MIT
"""What the documents show is there: commands with their options, plugins' options, files and headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest

from pyegress import chosen, options, policyfile, registry
from pyegress.chosen import Asked
from pyegress.cli import program
from pyegress.errors import UsageError

ROOT = Path(__file__).parent.parent
DOCUMENTS = ("README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")))
SHORTCUTS = {"ebpf": None, "nflog": "group", "nfqueue": "queue", "pcap": "device"}
PLUGINS: dict[str, Any] = {
    plugin.name: plugin
    for plugin in (*registry.all_inputs(), *registry.all_outputs())
    if not isinstance(plugin, registry.Broken)
}
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_OPTION = re.compile(rf"(?<![\w./:-])({'|'.join(PLUGINS)}):([a-z][a-z0-9-]*)")
_OPERATORS = frozenset("|&;<>()")


class Shown(NamedTuple):
    """A command."""

    arguments: list[str]
    line: str
    in_block: bool
    """Not within a sentence."""


def text_of(document: str) -> str:
    """What it says."""
    return (ROOT / document).read_text()


def blocks(text: str, kind: str) -> list[str]:
    """What stands between fences of a kind."""
    return [body for found, body in _FENCE.findall(text) if found == kind]


def shown(text: str, name: str = "pyegress") -> Iterator[Shown]:
    """Commands by name, in blocks for a shell and where a sentence has one marked as code."""
    for body in blocks(text, "sh"):
        for line in body.replace("\\\n", " ").splitlines():
            yield from (Shown(arguments, line, True) for arguments in commands(line, name))
    for span in _SPAN.findall(_FENCE.sub("", text)):
        if re.match(rf"(sudo )?{name} ", span):
            line = span.replace(r"\|", "|")
            yield from (Shown(arguments, line, False) for arguments in commands(line, name))


def commands(line: str, name: str = "pyegress") -> Iterator[list[str]]:
    """The arguments of each such command of a line, without redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    rest = iter((*lexer, ";"))
    for word in rest:
        if word in (">", ">>", "<"):
            next(rest)
        elif not set(word) <= _OPERATORS:
            words.append(word)
        else:
            while words and (words[0] == "sudo" or re.fullmatch(r"\w+=.*", words[0])):
                del words[0]
            if words and Path(words[0]).name == name:
                yield words[1:]
            words = []


def check(arguments: list[str]) -> None:
    """Parse a command line and make its plugins; raises what the program would say."""
    with program.make_context("pyegress", list(arguments)) as context:
        # Its callback would run the command.
        name, command, rest = program.resolve_command(context, [*context._protected_args, *context.args])
        assert command is not None
        with command.make_context(name, rest, parent=context) as inner:
            assert not inner.args, inner.args
            given = inner.params
    if "output_options" not in given:
        return
    shortcuts: dict[str, tuple[str, str] | None] = {
        key: (option, given[key]) if option else None for key, option in SHORTCUTS.items() if given.get(key)
    }
    chosen.choose(
        Asked(
            inputs=given.get("inputs") or (("log",) if name == "replay" else ()),
            input_options=(*given["input_options"], *(f"log:file:{log}" for log in given.get("logs", ()))),
            outputs=(*given["outputs"], *(("table",) if name == "top" else ())),
            output_options=given["output_options"],
            shortcuts=shortcuts,
        )
    )


def slug(heading: str) -> str:
    """The name by which pages link to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def broken_links(document: str, text: str) -> list[str]:
    """Targets of relative links that are not there."""
    broken = []
    for target in _LINK.findall(_FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, part = target.partition("#")
        found = (ROOT / document).parent / path if path else ROOT / document
        if not found.exists() or (
            part and part not in map(slug, _HEADING.findall(_FENCE.sub("", found.read_text())))
        ):
            broken.append(target)
    return broken


def unknown_options(text: str) -> list[str]:
    """Words such as `ebpf:window` whose plugin has no such option."""
    return [
        f"{name}:{key}"
        for name, key in _OPTION.findall(text)
        if key not in options.keys(PLUGINS[name].Options)
    ]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with the policy file that commands name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.toml").write_text(
        next(b for b in blocks(text_of("docs/nfqueue.md"), "toml") if "[[allow]]" in b)
    )
    return tmp_path


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_right(document: str, folder: Path) -> None:
    """Every pyegress command that is shown parses, with the options of its plugins and their values."""
    for arguments, line, in_block in shown(text_of(document)):
        try:
            check(arguments)
        except (click.ClickException, UsageError) as error:
            # A sentence may name a command without what it needs.
            if in_block or not isinstance(error, click.MissingParameter):
                pytest.fail(f"{document}: {line}: {error}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("pyegress rnu", "no such command"),
        ("pyegress run --nfqeue 0", "No such option"),
        ("pyegress run -t never", "never"),
        ("cd x && sudo pyegress run -I ebpf:ignore-prot:53", "no such option"),
        ("pyegress run -i ebpf -O logfmt:file:x", "output is not in use"),
        ("pyegress run -o nftables -O nftables:merge:most", "must be"),
        ("pyegress rules --scope group x.log > y", "group"),
        ("pyegress replay x.log -o sqlite", "sqlite:file: missing"),
        ("pyegress apply --conform 60 x.nft", "No such option"),
        ("pyegress top -o nothing", "nothing"),
    ],
)
def test_wrong_commands_are_found(line: str, said: str, folder: Path) -> None:
    """Whatever a document could have wrong in a command line."""
    (arguments,) = commands(line)
    with pytest.raises((click.ClickException, UsageError), match=re.escape(said)):
        check(arguments)


def test_commands_are_found_where_they_stand() -> None:
    """Behind `sudo`, variables and a pipe, over two lines and in sentences; not in comments and file names."""
    block = "A=1 pyegress run \\\n  -t 1s > pyegress  # pyegress no\ncat x | sudo pyegress man\n"
    text = f"```sh\n{block}```\nSay `pyegress list`, not `pyegress_total`.\n"
    assert [found.arguments for found in shown(text)] == [["run", "-t", "1s"], ["man"], ["list"]]


def test_readme_shows_what_it_is_for() -> None:
    """The main commands have an example."""
    found = {command.arguments[0] for command in shown(text_of("README.md"))}
    assert {"run", "top", "list", "doctor", "rules", "apply"} <= found


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_are_there(document: str) -> None:
    """An option that is named with its plugin is one of it, in sentences and tables too."""
    assert unknown_options(text_of(document)) == []


def test_unknown_options_are_found() -> None:
    """Also in a longer word, and not where a colon ends a word."""
    assert unknown_options("`-I ebpf:no-such:1`, loki:url, `top -O table:be`, ebpf: the input") == [
        "ebpf:no-such",
        "table:be",
    ]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """Files, and headings in them."""
    assert broken_links(document, text_of(document)) == []


def test_broken_links_are_found() -> None:
    """A file that is not there, and a heading that is not."""
    text = (
        "[a](docs/loki.md) [b](docs/none.md) [c](docs/loki.md#push) [d](docs/loki.md#pull) [e](https://x/y)"
    )
    assert broken_links("README.md", text) == ["docs/none.md", "docs/loki.md#pull"]


def test_every_page_is_in_the_index() -> None:
    """docs/README.md leads to all."""
    linked = set(_LINK.findall(text_of("docs/README.md")))
    assert {path.name for path in (ROOT / "docs").iterdir()} - {"README.md"} <= linked


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_of_toml_are_right(document: str, tmp_path: Path) -> None:
    """Policy files and config files that are shown can be used."""
    path = tmp_path / "shown.toml"
    for body in blocks(text_of(document), "toml"):
        path.write_text(body)
        if "[[allow]]" in body:
            assert policyfile.read(str(path)).groups
        else:
            chosen.choose(Asked(config=str(path)))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_has_what_is_shown(document: str) -> None:
    """Targets of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", text_of("Makefile"), re.MULTILINE))
    for arguments, line, _ in shown(text_of(document), "make"):
        assert {word for word in arguments if "=" not in word} <= targets, line
