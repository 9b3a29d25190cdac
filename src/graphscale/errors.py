"""The one error a user is meant to read."""

from __future__ import annotations


class InputError(ValueError):
    """A mistake its reader can mend: a fact, a reason, a next step. The command line exits with 2."""
