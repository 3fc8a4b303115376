"""The one exception that a user is meant to read: a sentence, no traceback needed."""

import contextlib
from collections.abc import Iterator

__all__ = ["InputError", "in_a_sentence"]


class InputError(ValueError):
    """Something the user handed in cannot be used.

    The message is one sentence that names the thing, its value and what was expected instead.
    The commands print it alone and exit with code 2; from Python it is an ordinary ``ValueError``.
    """


@contextlib.contextmanager
def in_a_sentence(complaint: str, expected: str) -> Iterator[None]:
    """Whatever is wrong with a file is said in a sentence: a broken one can raise any error.

    :param complaint: which file it is, and what it is not; the reason follows in brackets.
    :param expected: what was expected.
    :raises InputError: in place of any other error.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = f"{lines[-1].strip()} is missing" if isinstance(error, KeyError) else lines[-1]
        raise InputError(f"{complaint} ({reason.strip()}); expected {expected}") from error
