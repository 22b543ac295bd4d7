# SPDX-License-Identifier: MIT
"""The first of several inputs that can be used on this host, where none was named."""

from __future__ import annotations

from collections.abc import Iterator

from pyegress.errors import InputError, UnsupportedError
from pyegress.plugin import Batch, Context, Input
from pyegress.privileges import Capability


class Fallback(Input):
    """Opens one, the best first; from then on it is that one."""

    summary = "the first input that can be used here"

    def __init__(self, *inputs: Input) -> None:
        self._inputs = inputs
        self._used = inputs[0]

    @property
    def name(self) -> str:  # type: ignore[override]
        """That of the input in use."""
        return self._used.name

    @property
    def hook_names(self) -> tuple[str, ...]:
        """Names that its connections may have as `hook`."""
        return tuple(source.name for source in self._inputs)

    @property
    def waits(self) -> bool:  # type: ignore[override]
        """Of the input in use."""
        return self._used.waits

    @property
    def hooks(self) -> str:  # type: ignore[override]
        """Of the input in use."""
        return self._used.hooks

    @property
    def capabilities(self) -> frozenset[Capability]:  # type: ignore[override]
        """Of the input in use."""
        return self._used.capabilities

    @property
    def shared(self) -> frozenset[Capability]:  # type: ignore[override]
        """Of all of them: asked for before one is open."""
        return frozenset().union(*(source.shared for source in self._inputs))

    def open(self, context: Context) -> None:
        """Raises what the first says where none can be used."""
        first: UnsupportedError | InputError | None = None
        for source in self._inputs:
            try:
                source.open(context)
            except (UnsupportedError, InputError) as error:
                source.close()
                first = first or error
                context.debug(str(error))
                continue
            self._used = source
            if first is None:
                context.tell(f"no input named: {source.name} is the best that works here")
            else:
                context.notice(f"no input named: {source.name} is the best that works here, because {first}")
            return
        assert first is not None
        raise first

    def read(self) -> Iterator[Batch]:
        """Of the input in use."""
        yield from self._used.read()

    def stop(self) -> None:
        """End the input in use."""
        self._used.stop()

    def close(self) -> None:
        """Close the input in use."""
        self._used.close()

    def refresh_losses(self) -> None:
        """Of the input in use."""
        self._used.refresh_losses()
