"""The one exception that a user is meant to read: a sentence, no traceback needed."""

__all__ = ["InputError"]


class InputError(ValueError):
    """Something the user handed in cannot be used.

    The message is one sentence that names the thing, its value and what was expected instead.
    The commands print it alone and exit with code 2; from Python it is an ordinary ``ValueError``.
    """
