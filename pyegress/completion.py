# SPDX-License-Identifier: MIT
"""What a shell offers when somebody presses tab: plugins, keys and values of their options; and its script for that."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import click
from click.shell_completion import (
    BashComplete,
    CompletionItem,
    ShellComplete,
    get_completion_class,
    split_arg_string,
)

from pyegress import options, registry
from pyegress.plugin import Input, Output

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_PYEGRESS_COMPLETE"

# A colon ends a word of bash: only what stands behind the last one is put in.
_BASH = """\
%(complete_func)s() {
    local line value
    COMPREPLY=()
    while IFS=$'\\n' read -r line; do
        value=${line#*,}
        case $line in
            dir,*) compopt -o dirnames ;;
            file,*) compopt -o default ;;
            *) COMPREPLY+=("$value"); case $value in *:) compopt -o nospace ;; esac ;;
        esac
    done < <(env COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" PYEGRESS_WORDBREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1")
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""


class _Bash(BashComplete):
    """Completes words with colons, which bash takes apart."""

    source_template = _BASH

    def get_completion_args(self) -> tuple[list[str], str]:
        typed = os.fsencode(os.environ["COMP_LINE"])[: int(os.environ["COMP_POINT"])].decode(
            "utf-8", "replace"
        )
        words = split_arg_string(typed)
        if typed[-1:].isspace():
            words.append("")
        self._word = words[-1]
        return words[1:-1], self._word

    def format_completion(self, item: CompletionItem) -> str:
        value = item.value
        head, colon, _ = self._word.rpartition(":")
        if colon and ":" in os.environ.get("PYEGRESS_WORDBREAKS", ":"):
            value = value.removeprefix(f"{head}:")
        return f"{item.type},{value}"


click.shell_completion.add_completion_class(_Bash)


def script(program: click.Command, shell: str) -> str:
    """What the shell is to evaluate."""
    found = get_completion_class(shell)
    assert found is not None
    made: ShellComplete = found(program, {}, "pyegress", _VARIABLE)
    return made.source_template % made.source_vars()


def inputs(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Names of inputs."""
    return _names(registry.all_inputs(), typed)


def outputs(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Names of outputs."""
    return _names(registry.all_outputs(), typed)


def input_options(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Options of inputs, part by part."""
    return _parts(registry.all_inputs(), typed)


def output_options(context: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
    """Options of outputs, part by part."""
    return _parts(registry.all_outputs(), typed)


def _names(plugins: Iterable[Any], typed: str) -> list[CompletionItem]:
    return [
        CompletionItem(plugin.name, help=plugin.summary)
        for plugin in _loaded(plugins)
        if plugin.name.startswith(typed)
    ]


def _parts(plugins: Iterable[Any], typed: str) -> list[CompletionItem]:
    name, _, rest = typed.partition(":")
    key, has_key, _ = rest.partition(":")
    found = []
    for plugin in _loaded(plugins):
        if ":" not in typed:
            found.append(CompletionItem(f"{plugin.name}:", help=plugin.summary))
        elif plugin.name == name:
            for option in options.describe(plugin.Options):
                if not has_key:
                    found.append(CompletionItem(f"{name}:{option.key}:", help=option.help))
                elif option.key == key:
                    found += [CompletionItem(f"{name}:{key}:{value}") for value in option.choices]
    return [item for item in found if item.value.startswith(typed)]


def _loaded(plugins: Iterable[Any]) -> Iterable[type[Input] | type[Output]]:
    return (plugin for plugin in plugins if not isinstance(plugin, registry.Broken))


def command(program: click.Command, show: Any) -> click.Command:
    """The command that prints scripts for this program."""

    @click.command("completion")
    @click.argument("shell", type=click.Choice(SHELLS))
    def completion(shell: str) -> None:
        """Print what SHELL needs to complete commands, options, plugins and their options.

        \b
        bash: pyegress completion bash > /etc/bash_completion.d/pyegress
        zsh:  pyegress completion zsh > "${fpath[1]}/_pyegress"
        fish: pyegress completion fish > ~/.config/fish/completions/pyegress.fish
        """
        show(script(program, shell))

    return completion
