# SPDX-License-Identifier: MIT
"""Nothing imports upward, sideways between packages, or in a circle (imports inside functions count too)."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = (
    ("pyegress",),
    (
        "errors",
        "record",
        "losses",
        "escape",
        "times",
        "ownports",
        "privileges",
        "remember",
        "users",
        "_native",
    ),
    ("plugin", "options"),
    ("prefixes", "patterns", "redact", "stage", "tomlfile", "tables"),
    ("destinations", "directions", "filters", "namefilters", "policy", "policyfile", "setup_rules"),
    ("kernel", "device", "decode", "attribute", "netfilter", "rules", "loki", "watch"),
    ("names",),
    ("session", "packets", "observer", "apply", "logs", "report"),
    ("inputs", "outputs"),
    (
        "pipeline",
        "registry",
        "progressbar",
        "messages",
        "interrupts",
        "signals",
        "priority",
        "processname",
        "configfile",
        "fallback",
        "service",
    ),
    ("chosen", "announcer", "listing", "completion", "configexample", "manpage"),
    ("program",),
    ("run_command",),
    (
        "doctor",
        "apply_command",
        "names_command",
        "replay_command",
        "report_command",
        "rules_command",
        "rules_sources",
        "top_command",
    ),
    ("cli", "__main__"),
)
LAYER = {word: number for number, words in enumerate(LAYERS) for word in words}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "pyegress").rglob("*.py"))
}
SHARED = {"pyegress.outputs.filesink", "pyegress.outputs.rulefile", "pyegress.outputs.logfmt"}
"""Bases of outputs, and the line that Loki gets too."""
NATIVE_USERS = {
    "pyegress.decode.capture",
    "pyegress.decode.layout",
    "pyegress.decode.packet",
    "pyegress.inputs.ebpf",
    "pyegress.names.cgrouptap",
    "pyegress.session",
}


def imported(path: Path) -> set[str]:
    """The pyegress modules that a file imports, leaving out those for type checkers only."""
    found: set[str] = set()
    pending: list[ast.AST] = [ast.parse(path.read_text())]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending.extend(node.orelse)
            continue
        pending.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else str(node.module))
    return {name for name in found if name.split(".")[0] == "pyegress"}


IMPORTS = {name: imported(path) for name, path in MODULES.items()}


def word(name: str) -> str:
    """The part of a module's name that has a layer."""
    return name.split(".")[1] if "." in name else name


@pytest.mark.parametrize("name", MODULES)
def test_module_has_a_layer_and_imports_only_lower_ones(name: str) -> None:
    """Lower layers, or the same package in the same layer; a plugin imports no plugin but those in SHARED."""
    assert word(name) in LAYER, f"{name}: give it a layer in tests/test_layers.py"
    for other in IMPORTS[name]:
        below = LAYER[word(other)] < LAYER[word(name)]
        both_top = name.count(".") == other.count(".") == 1
        beside = LAYER[word(other)] == LAYER[word(name)] and (both_top or word(other) == word(name))
        assert below or beside, f"{name} must not import {other}"
        if word(name) in ("inputs", "outputs"):
            same_package = word(other) == word(name)
            assert not same_package or other in SHARED, f"{name} must not import {other}"
        if word(name) == "outputs":
            assert word(other) not in ("decode", "attribute"), f"{name} must not import {other}"
        if word(other) == "_native" and word(name) != "_native":
            assert name in NATIVE_USERS, f"{name} must not import {other}"


def test_no_cycles() -> None:
    """Modules can be put in an order in which each imports only earlier ones."""
    left = dict(IMPORTS)
    while left:
        ready = [name for name, others in left.items() if not (others - {name}) & left.keys()]
        assert ready, f"these import each other: {sorted(left)}"
        for name in ready:
            del left[name]


@pytest.mark.parametrize(
    "package",
    [
        "apply",
        "attribute",
        "decode",
        "doctor",
        "inputs",
        "logs",
        "loki",
        "names",
        "netfilter",
        "outputs",
        "report",
        "rules",
        "watch",
    ],
)
def test_package_init_is_empty(package: str) -> None:
    """A package's __init__ holds a licence line and at most a docstring, so that nothing can depend on it."""
    body = ast.parse((ROOT / "pyegress" / package / "__init__.py").read_text()).body
    assert all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in body)
