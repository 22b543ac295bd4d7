# SPDX-License-Identifier: MIT
"""The report for programs."""

import json as reader

from pyegress.doctor import json
from pyegress.doctor.examination import Examination
from pyegress.doctor.finding import Finding


def test_keys() -> None:
    """One object, with the keys that the README promises."""
    report = Examination("1.0", False, None, "nothing attaches", [Finding("btf", "fails", "a\\u001b", "b")])
    text = json.encoded(report)
    assert text.endswith("}\n")
    assert reader.loads(text) == {
        "version": "1.0",
        "works": False,
        "hooks": None,
        "verdict": "nothing attaches",
        "findings": [{"name": "btf", "state": "fails", "detail": "a\\u001b", "remedy": "b"}],
    }
