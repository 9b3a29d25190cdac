"""The errors that a user is meant to read."""

from __future__ import annotations

import traceback
from pathlib import Path


def first_sentence(error: BaseException) -> str:
    """What another library said, for the brackets of our own message: one line, without its advice."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".") or type(error).__name__


class InputError(ValueError):
    """A mistake its reader can mend: a fact, a reason, a next step. The command line exits with 2."""


class DivergenceError(ArithmeticError):
    """Loss or scores are no finite numbers any more. The command line exits with 1."""


def told(error: Exception) -> str:
    """An error of the user's own code in a line: kind, words, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {first_sentence(error)}{where}"
