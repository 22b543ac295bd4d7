# SPDX-License-Identifier: MIT
r"""One JSON object per connection and line; what is not known is absent, and `pyegress schema` prints the fields.

All text is as it is in the other outputs: a newline is the two characters `\n`, a backslash is doubled, a byte that is
not UTF-8, say 0xff, is the six characters `\udcff`. JSON then escapes each backslash once more, and any reader of JSON
takes that off.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from msgspec import Meta

from pyegress import plugin
from pyegress.logs.jsonl import Encoder
from pyegress.outputs.filesink import FileOutput
from pyegress.plugin import Batch
from pyegress.redact import RedactOptions

_PART = 64
"""Some hundred kilobytes; see the logfmt output."""


class JsonOptions(RedactOptions, frozen=True, kw_only=True):
    """Options of the json output."""

    file: Annotated[str, Meta(description="file to append to (0640, reopened on SIGHUP), - for stdout")] = "-"


class Json(FileOutput):
    """Writes whole lines, some at a time."""

    name: ClassVar[str] = "json"
    summary: ClassVar[str] = "one JSON object per connection and line, to stdout or a file"
    Options: ClassVar[type[plugin.Options]] = JsonOptions

    def __init__(self, options: JsonOptions) -> None:
        super().__init__(options.file)
        self._encoder = Encoder(options.redact)

    def write(self, batch: Batch) -> None:
        for at in range(0, len(batch), _PART):
            self.put(self._encoder.lines(batch[at : at + _PART]))
