# SPDX-License-Identifier: MIT
"""The plugins that a command line and a config file ask for, with their options; and what changes when asked again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from pyegress import configfile, options, registry
from pyegress.configfile import COMMAND_LINE_LEVEL, NO_FILE, ConfigFile, Table
from pyegress.errors import UsageError, nearest
from pyegress.escape import display
from pyegress.fallback import Fallback
from pyegress.options import Given, Place
from pyegress.plugin import Input, Options, Output

DEFAULT_INPUT = "ebpf"
DEFAULT_OUTPUT = "text"
INSTEAD = (("pcap", (("device", "any"),)),)
"""Inputs with options for where the default one can't be used, the best first. The others need firewall rules."""

Say = Callable[[str], None]
_Plugin = TypeVar("_Plugin", Input, Output)


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The words of a command line."""

    inputs: Sequence[str] = ()
    input_options: Sequence[str] = ()
    outputs: Sequence[str] = ()
    output_options: Sequence[str] = ()
    shortcuts: dict[str, tuple[str, str] | None] = {}
    """Inputs that a shortcut names, with the option that it stands for."""
    config: str | None = None


class Plugin(NamedTuple):
    """One that is to be used."""

    made: Any
    options: Options
    place: Place


class Chosen(NamedTuple):
    """All that are to be used, by name."""

    inputs: dict[str, Plugin]
    outputs: dict[str, Plugin]
    config: str
    """Name of the config file for messages, empty without one."""
    has_default_output: bool
    """No output was named."""

    @property
    def sources(self) -> list[Input]:
        """The inputs."""
        return [plugin.made for plugin in self.inputs.values()]

    @property
    def sinks(self) -> list[Output]:
        """The outputs."""
        return [plugin.made for plugin in self.outputs.values()]

    @property
    def loud(self) -> frozenset[str]:
        """Hooks of inputs that are not quiet."""
        return frozenset(
            hook
            for name, plugin in self.inputs.items()
            if not getattr(plugin.options, "quiet", False)
            for hook in getattr(plugin.made, "hook_names", (name,))
        )


def choose(asked: Asked) -> Chosen:
    """Make what is asked for, nothing of it open; UsageError says what can't be."""
    config = configfile.read(asked.config) if asked.config is not None else NO_FILE
    names = list(dict.fromkeys([*_once("-i", asked.inputs), *asked.shortcuts]))
    all_names = list(dict.fromkeys([*config.inputs, *names]))
    is_unnamed = not all_names and not asked.input_options
    given = _by_plugin("-I", "input", "-i", asked.input_options, all_names or [DEFAULT_INPUT])
    for name, option in asked.shortcuts.items():
        if option is not None:
            given[name].append(_given("-I", name, *option))
    inputs = {
        name: _made("-I", name, _input_type(name, config), config.inputs.get(name), texts, config.filters)
        for name, texts in given.items()
    }
    _check_filters(config, inputs)
    if is_unnamed:
        first = inputs[DEFAULT_INPUT]
        inputs = {DEFAULT_INPUT: first._replace(made=_with_fallback(first.made, config.filters))}
    named = list(dict.fromkeys([*config.outputs, *_once("-o", asked.outputs)]))
    used = named or [DEFAULT_OUTPUT]
    outputs = {
        name: _made("-O", name, _output_type(name, config), config.outputs.get(name), texts, [])
        for name, texts in _by_plugin("-O", "output", "-o", asked.output_options, used).items()
    }
    _check_terminal(outputs)
    return Chosen(inputs, outputs, config.where, not named)


def change(running: Chosen, asked: Chosen, say: Say) -> Chosen:
    """Have what runs go on as is asked now, and say what it can't; returns what runs then."""
    for kind, there, wanted in (
        ("input", running.inputs, asked.inputs),
        ("output", running.outputs, asked.outputs),
    ):
        for name in there.keys() ^ wanted.keys():
            say(f"{_whose(asked)}{kind} {display(name)}: needs a restart")
    for name in running.outputs.keys() & asked.outputs.keys():
        then = asked.outputs[name]
        for key in options.differing(running.outputs[name].options, then.options):
            say(f"{then.place.of(key)}: needs a restart")
    inputs = dict(running.inputs)
    for name in running.inputs.keys() & asked.inputs.keys():
        inputs[name] = _changed(running.inputs[name], asked.inputs[name], say)
    return running._replace(inputs=inputs)


def _changed(running: Plugin, asked: Plugin, say: Say) -> Plugin:
    keys = options.differing(running.options, asked.options)
    can = running.made.changeable
    for key in keys:
        if key not in can:
            say(f"{asked.place.of(key)}: needs a restart")
    then = options.with_those_of(running.options, asked.options, [key for key in keys if key in can])
    running.made.change(then)
    return running._replace(options=then)


def _whose(asked: Chosen) -> str:
    return f"{asked.config}: " if asked.config else ""


def _once(flag: str, names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"{flag} {display(name)}: given twice")
    return names


def _given(flag: str, name: str, key: str, text: str) -> Given:
    return Given(key, text, Place(f"{flag} {name}"), COMMAND_LINE_LEVEL)


def _by_plugin(
    flag: str, kind: str, use_flag: str, texts: Sequence[str], used: Sequence[str]
) -> dict[str, list[Given]]:
    """Options by plugin; each plugin must be in use, or the option would be ignored unsaid."""
    given: dict[str, list[Given]] = {name: [] for name in used}
    for text in texts:
        plugin, _, rest = text.partition(":")
        key, separator, value = rest.partition(":")
        if not (plugin and key and separator):
            raise UsageError(f"{flag} {display(text)}: must be PLUGIN:KEY:VALUE")
        if plugin not in given:
            (registry.input_named if kind == "input" else registry.output_named)(plugin)
            known = f"add {use_flag} {display(plugin)}"
            raise UsageError(f"{flag} {display(plugin)}:{display(key)}: {kind} is not in use; {known}")
        given[plugin].append(_given(flag, plugin, key, value))
    return given


def _input_type(name: str, config: ConfigFile) -> type[Input]:
    return _named(registry.input_named, name, config.inputs.get(name))


def _output_type(name: str, config: ConfigFile) -> type[Output]:
    return _named(registry.output_named, name, config.outputs.get(name))


def _named(find: Callable[[str], type[_Plugin]], name: str, table: Table | None) -> type[_Plugin]:
    try:
        return find(name)
    except UsageError as error:
        raise UsageError(f"{table.place.start}: {error}" if table else str(error)) from None


def _made(
    flag: str,
    name: str,
    plugin: type[Any],
    table: Table | None,
    texts: Sequence[Given],
    filters: Sequence[Given],
) -> Plugin:
    place = table.place if table else Place(f"{flag} {name}")
    known = options.keys(plugin.Options)
    common = [given for given in filters if given.key in known]
    read = options.resolve(place, plugin.Options, [*common, *(table.options if table else ()), *texts])
    return Plugin(plugin(read), read, place)


def _check_terminal(outputs: dict[str, Plugin]) -> None:
    """What is written between the lines of a picture would tear it."""
    drawing = [name for name, plugin in outputs.items() if plugin.made.draws]
    for name, plugin in outputs.items() if drawing else ():
        if getattr(plugin.options, "file", None) in ("", "-"):
            raise UsageError(
                f"-o {display(name)}: standard output is for {drawing[0]}; give -O {display(name)}:file:FILE"
            )


def _check_filters(config: ConfigFile, inputs: dict[str, Plugin]) -> None:
    """A filter that no input has would be ignored unsaid."""
    known = sorted({key for plugin in inputs.values() for key in _filter_keys(plugin.options)})
    for given in config.filters:
        if given.key not in known:
            raise UsageError(f"{given.place.of(given.key)}: no such filter; {nearest(given.key, known)}")


def _filter_keys(options_used: Options) -> Iterator[str]:
    from pyegress.filters import FilterOptions, RecordFilterOptions

    for kind in RecordFilterOptions, FilterOptions:
        if isinstance(options_used, kind):
            yield from options.keys(kind)


def _with_fallback(first: Input, filters: Sequence[Given]) -> Input:
    others = []
    for name, pairs in INSTEAD:
        texts = [_given("-I", name, *pair) for pair in pairs]
        others.append(_made("-I", name, registry.input_named(name), None, texts, filters).made)
    return Fallback(first, *others)
