# SPDX-License-Identifier: MIT
"""The tests mirror the modules."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = [
    path.relative_to(ROOT / "pyegress")
    for path in sorted((ROOT / "pyegress").rglob("*.py"))
    if path.name not in ("__init__.py", "__main__.py") and "_native" not in path.parts
]


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_module_has_a_twin(module: Path) -> None:
    """`pyegress/a/b.py` is tested by `tests/a/test_b.py`."""
    assert (ROOT / "tests" / module.parent / f"test_{module.name}").is_file()
