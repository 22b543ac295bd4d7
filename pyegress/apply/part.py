# SPDX-License-Identifier: MIT
"""What can be applied: something of our own in the kernel, which can be replaced and put back."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NoReturn

from pyegress.apply.programs import ProgramError
from pyegress.errors import EgressError, InputError
from pyegress.escape import display


class Part(ABC):
    """The content of one file for one table or chain of ours."""

    what: str
    """As messages name it."""

    def __init__(self, where: str, text: bytes) -> None:
        self._where = where
        self._text = text
        """The bytes that were read once: those that are checked are those that are loaded."""

    @abstractmethod
    def check(self) -> None:
        """Have the kernel's program look at it without loading it; InputError if it can't be loaded."""

    @abstractmethod
    def remember(self) -> None:
        """Keep what is there now; it is an error if that couldn't be put back."""

    @abstractmethod
    def load(self) -> None:
        """Put it in the place of what is there, in one transaction."""

    @abstractmethod
    def take_back(self) -> str:
        """Put back what `remember` saw, in one transaction; says what is there now."""

    @abstractmethod
    def remove(self) -> str | None:
        """Remove ours, whatever it is; says what was removed, None if there was nothing."""

    @abstractmethod
    def size(self) -> str:
        """How much is loaded now, for people."""

    def _refuse(self, error: ProgramError, lines_added: int = 0) -> NoReturn:
        line, text = error.complaint
        place = "" if line is None else f":{line - lines_added if line > lines_added else line}"
        raise InputError(f"{display(self._where)}{place}: {text}; nothing was changed") from error


def unrestorable(what: str, error: ProgramError) -> EgressError:
    """Why nothing is loaded: what is there now would be lost."""
    return EgressError(
        f"{what}: what is loaded now could not be put back ({error.complaint.text}); "
        "remove it first, with pyegress apply --remove"
    )
