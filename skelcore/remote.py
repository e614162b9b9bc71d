"""Files at any fsspec URL: what their many kinds of failure mean, in one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from skelcore.errors import InputError, RunError


def missing(error: FileNotFoundError) -> bool:
    """Whether a file is truly absent: over HTTP fsspec says so of every failure, and keeps the failure as the cause."""
    cause = error.__cause__
    failed = isinstance(cause, TimeoutError) or type(cause).__module__.startswith("aiohttp.")
    return not failed or getattr(cause, "status", None) in (404, 410)


@contextmanager
def reaching(uri: str, trouble: str = "cannot be read") -> Iterator[None]:
    """Turn what any file system raises into one line: InputError for a wrong ``uri``, RunError for a failure."""
    try:
        yield
    except (InputError, RunError):
        raise
    except (PermissionError, IsADirectoryError, NotADirectoryError, ImportError, ValueError) as error:
        raise InputError(f"{uri}: {trouble}: {_one_line(error)}") from None
    except FileNotFoundError as error:
        if missing(error):
            raise InputError(f"{uri}: no such file") from None
        raise RunError(f"{uri}: {trouble}: {_one_line(error.__cause__)}") from None
    except Exception as error:  # every remote file system has its own kinds of error
        raise RunError(f"{uri}: {trouble}: {_one_line(error)}") from error


def _one_line(error: BaseException | None) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
