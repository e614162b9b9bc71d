"""The frame that every command shares: CONFIG key=value ..., --help, --dry-run, exit statuses."""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn, TypeVar, get_args, get_origin

from skelcore import config as configs
from skelcore.errors import InputError, RunError
from skelcore.files import FULL
from skelcore.page import printable

C = TypeVar("C", bound=configs.Config)

# key=value or key.sub=value, but no URL or path that happens to hold an equals sign.
_OVERRIDE = re.compile(r"[A-Za-z_][\w.-]*=")
# What torch, whose CPU errors are plain RuntimeErrors, says when memory is too small or a size beyond any memory.
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|size calculation overflowed", re.I)
_LONGEST = 300  # characters of an error line about the command's words


def run(argv: Sequence[str], cls: type[C], description: str, plan: Callable[[C], str], execute: Callable[[C], None],
        section: tuple[str, ...] = (), default_file: str | None = None) -> int:
    """Parse ``argv``, then plan or execute; returns the exit status, as ``guarded`` does.

    A field may be written ``key=value`` or ``--key value [value ...]``.
    """
    def body() -> None:
        if _asks_for_help(argv):
            print(f"{description}\n\nusage: CONFIG [CONFIG ...] [key=value ...] [--dry-run]\n\n"
                  f"Configuration:\n{configs.schema(cls)}")
            return
        paths, overrides, dry_run = _parse(argv, cls)
        config = configs.load(cls, paths or default_file, overrides, section)
        if dry_run:
            print(f"{configs.to_yaml(config)}\n{plan(config)}")
        else:
            execute(config)

    return guarded(body)


class Parser(argparse.ArgumentParser):
    """For commands of a few options instead of a configuration: bad words are InputErrors."""

    def error(self, message: str) -> NoReturn:
        text = " ".join(message.split())
        raise InputError(text if len(text) <= _LONGEST else text[:_LONGEST] + "...")

    def run(self, argv: Sequence[str] | None, execute: Callable[[argparse.Namespace], None]) -> int:
        """Parse ``argv`` (None: the command line's) and execute, or print help; the exit status is ``guarded``'s."""
        words = sys.argv[1:] if argv is None else argv
        return guarded(self.print_help if _asks_for_help(words) else lambda: execute(self.parse_args(words)))


def guarded(body: Callable[[], None]) -> int:
    """Run ``body``; returns the exit status.

    0 success; 1 failure at run time; 2 bad configuration or input; 130 interrupted; all but a failure that nobody
    foresaw are said in one line. A reader who closes the pipe early is no error to talk about, and gives 1.
    """
    try:
        body()
        sys.stdout.flush()  # here, where a closed pipe is met, and not at exit
        return 0
    except InputError as error:
        _say(f"error: {error}")
        return 2
    except RunError as error:
        _say(f"failed: {error}")
        return 1
    except KeyboardInterrupt as interrupt:
        print("interrupted", file=sys.stderr)
        return 128 + getattr(interrupt, "signal", signal.SIGINT)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if is_out_of_memory(error):
            _say("failed: too little memory; smaller sizes or a smaller batch need less")
        elif isinstance(error, OSError) and error.errno in FULL:
            where = f"{error.filename}: " if error.filename else ""
            _say(f"failed: {where}{error.strerror}; make room and run the same command again")
        else:
            traceback.print_exc()
        return 1


def _say(text: str) -> None:
    """Names of files and columns, which are others' words, must neither begin a line nor steer a terminal."""
    print(printable(" ".join(text.split())), file=sys.stderr)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python or torch says so that there is too little memory."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_NO_MEMORY.search(str(error))))


def _asks_for_help(words: Sequence[str]) -> bool:
    return bool({"-h", "--help"} & set(words))


def _parse(argv: Sequence[str], cls: type[configs.Config]) -> tuple[list[str], list[str], bool]:
    """Split the arguments into the configuration files, the overrides, and whether to only plan."""
    paths: list[str] = []
    overrides: list[str] = []
    dry_run = False
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--dry-run":
            dry_run = True
        elif word.startswith("--"):
            key, separator, value = word[2:].partition("=")
            values = [value] if separator else []
            while not separator and rest and not rest[0].startswith("--") and not _OVERRIDE.match(rest[0]):
                values.append(rest.pop(0))
            if not values:
                raise InputError(f"option {word} needs a value")
            field = key.replace("-", "_")
            plural = len(values) > 1 or (_is_list(cls, field) and not values[0].startswith("["))
            overrides.append(f"{field}=[{', '.join(map(_quote, values))}]" if plural else f"{field}={values[0]}")
        elif _OVERRIDE.match(word):
            overrides.append(word)
        elif word.endswith((".yaml", ".yml")) or not paths:
            paths.append(word)
        else:
            raise InputError(f"unexpected argument {word!r}: configuration files (.yaml), then key=value")
    return paths, overrides, dry_run


def _quote(value: str) -> str:
    """A word as a YAML flow item: numbers stay numbers, and no comma or colon in a text splits it."""
    return value if value.replace(".", "", 1).lstrip("-").isdigit() else json.dumps(value)


def _is_list(cls: type[configs.Config], field: str) -> bool:
    """Whether a field holds several values, so that one on the command line stands for a list of one."""
    annotation = cls.model_fields[field].annotation if field in cls.model_fields else None
    kinds = (annotation, *get_args(annotation))  # the second for unions such as list[int] | None
    return any((get_origin(kind) or kind) in (list, tuple, set, frozenset) for kind in kinds)
