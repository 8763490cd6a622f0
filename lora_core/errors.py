"""The error for people."""

from __future__ import annotations


class UserError(ValueError):
    """Wrong input, told in a sentence that names the thing and the fix. The doors print it and exit with 2."""
