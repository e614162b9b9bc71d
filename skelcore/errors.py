"""The two errors that end a command with one line instead of a traceback."""


class InputError(ValueError):
    """Bad input or configuration: names the file, the field and the remedy (exit status 2)."""


class RunError(RuntimeError):
    """A failure at run time that the user can understand and act on (exit status 1)."""
