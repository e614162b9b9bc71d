"""A pickle reader for data files from strangers: numpy arrays, numbers, strings and builtin containers, nothing else.

Unpickling is running a small program, so the program is cut down: opcodes that make objects of arbitrary classes are
gone, and the few globals that a pickled numpy array names are answered by functions of this file, which check types,
shapes and byte counts before anything is allocated. No function of numpy or of the standard library is ever handed
to the pickle. The interpreter is the one in pure Python: the opcodes of the C one cannot be removed, and a ten-byte
file makes it allocate a memo of gigabytes. That costs some 70 microseconds a record, seconds on the largest files.
"""

from __future__ import annotations

import math
import pickle
import re
import struct
from collections.abc import Callable
from typing import Any, BinaryIO, ClassVar

import numpy as np

from skelcore.errors import InputError

_SAFE_DTYPE = re.compile(r"([<>|=]?)(b1|[iu][1248]|f[248]|U\d{1,4}|S\d{1,4})")
_MALFORMED = (pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
              OverflowError, MemoryError, RecursionError, struct.error)


def load(file: BinaryIO, name: str) -> Any:
    """Read one pickled value from a seekable binary file.

    Raises InputError, which names ``name`` and the reason, for a file that is truncated, is not a pickle, or asks
    for anything but arrays of numbers or strings, numbers, strings, bytes and builtin containers.
    """
    try:
        return _Unpickler(file).load()
    except _Refused as error:
        raise InputError(f"{name}: refused, the pickle asks for {error}; only numpy arrays and builtin containers "
                         "are read") from None
    except _MALFORMED as error:
        reason = ascii(str(error)[:200])[1:-1] or type(error).__name__
        raise InputError(f"{name}: not a readable pickle, or cut short ({reason})") from None


class _Refused(Exception):
    """The pickle asks for something that is not plain data."""


class _Dtype:
    """Stands for a numpy dtype while unpickling, so that no state can reach a real one."""

    def __init__(self, order: str, code: str) -> None:
        self.order, self.code = order, code

    def __setstate__(self, state: Any) -> None:
        if not (isinstance(state, tuple) and len(state) >= 5 and state[1] in ("<", ">", "|", "=")
                and state[2:5] == (None, None, None)):
            raise _Refused("a structured dtype")
        self.order = state[1]

    def numpy(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


class _Admitted:
    """A callable for the pickle that carries no state a pickle could change."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a change to one of the reader's own functions")


def _check_array(raw: Any, dtype: Any, shape: Any) -> None:
    if not isinstance(dtype, _Dtype):
        raise _Refused("an array without a plain dtype")
    if not isinstance(raw, (bytes, bytearray)):
        raise _Refused("an array of Python objects")
    if not (isinstance(shape, tuple) and len(shape) <= 8 and all(type(n) is int and 0 <= n < 1 << 48 for n in shape)):
        raise _Refused("an array of impossible shape")
    if math.prod(shape) * dtype.numpy().itemsize != len(raw):
        raise _Refused(f"an array of shape {shape} from {len(raw)} bytes")


def _fill(array: np.ndarray, state: Any) -> None:
    """Give an array its state, checked before numpy sees it."""
    version, shape, dtype, fortran, raw = state if len(state) == 5 else (1, *state)
    if isinstance(raw, str):  # written by Python 2
        raw = raw.encode("latin1")
    _check_array(raw, dtype, shape)
    checked: Any = (version, shape, dtype.numpy(), bool(fortran), bytes(raw))
    array.__setstate__(checked)


def _ndarray(*args: Any) -> Any:
    raise _Refused("a call of numpy.ndarray")


def _reconstruct(kind: Any, shape: Any, code: Any) -> np.ndarray:
    if kind is not _GLOBALS["numpy", "ndarray"]:
        raise _Refused("an array of an unknown class")
    return np.ndarray((0,), np.int8)


def _dtype(code: Any, *flags: Any) -> _Dtype:
    match = _SAFE_DTYPE.fullmatch(code) if isinstance(code, str) else None
    if match is None:
        raise _Refused(f"dtype {code[:40]!a}" if isinstance(code, str) else "a structured dtype")
    return _Dtype(match[1] or "=", match[2])


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any = "C", *axes: Any) -> np.ndarray:
    if isinstance(raw, pickle.PickleBuffer):
        raise _Refused("an out-of-band buffer")
    _check_array(raw, dtype, shape)
    if order not in ("C", "F") or axes not in ((), (None,)):
        raise _Refused("an array of unknown memory order")
    return np.frombuffer(raw, dtype.numpy()).reshape(shape, order=order)


def _scalar(dtype: Any, raw: Any) -> Any:
    if isinstance(raw, str):
        raw = raw.encode("latin1")
    _check_array(raw, dtype, ())
    return np.frombuffer(raw, dtype.numpy())[0]


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How Python 3 writes bytes in protocols 0 to 2."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused("_codecs.encode with anything but latin1")
    return text.encode("latin1")


def _bytes(*args: Any) -> bytes:
    if args:
        raise _Refused("builtins.bytes with arguments")
    return b""


def _set_of(kind: type) -> Callable[..., Any]:
    def make(items: Any = ()) -> Any:
        if not isinstance(items, (list, tuple)):
            raise _Refused(f"a {kind.__name__} of something that is not a list")
        return kind(items)

    return make


def _ordered(pairs: Any = ()) -> dict[Any, Any]:
    if not isinstance(pairs, (list, tuple)):
        raise _Refused("an OrderedDict of something that is not a list")
    return dict(pairs)


_GLOBALS: dict[tuple[str, str], _Admitted] = {
    **{(f"numpy.{core}.multiarray", name): _Admitted(call) for core in ("core", "_core")
       for name, call in (("_reconstruct", _reconstruct), ("scalar", _scalar))},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _Admitted(_frombuffer) for core in ("core", "_core")},
    ("numpy", "ndarray"): _Admitted(_ndarray),
    ("numpy", "dtype"): _Admitted(_dtype),
    ("_codecs", "encode"): _Admitted(_encode),
    ("builtins", "bytes"): _Admitted(_bytes),
    ("builtins", "set"): _Admitted(_set_of(set)),
    ("builtins", "frozenset"): _Admitted(_set_of(frozenset)),
    ("collections", "OrderedDict"): _Admitted(_ordered),
}

_REMOVED = (pickle.INST, pickle.OBJ, pickle.NEWOBJ, pickle.NEWOBJ_EX, pickle.EXT1, pickle.EXT2, pickle.EXT4,
            pickle.PERSID, pickle.BINPERSID, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)


class _Bounded:
    """A file that is never asked for more than it holds, since a read allocates what it is asked for."""

    def __init__(self, file: BinaryIO) -> None:
        position = file.tell()
        self._file, self._size = file, file.seek(0, 2)
        file.seek(position)

    def read(self, size: int) -> bytes:
        return self._file.read(min(size, self._size))

    def readline(self) -> bytes:
        return self._file.readline()


_Base: Any = pickle._Unpickler


class _Unpickler(_Base):
    dispatch: ClassVar[dict[int, Callable[..., None]]] = dict(_Base.dispatch)

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(_Bounded(file), encoding="latin1")

    def find_class(self, module: str, name: str) -> Any:
        module = "builtins" if module == "__builtin__" else module  # their name in protocols 0 to 2
        if (module, name) not in _GLOBALS:
            raise _Refused(ascii(f"{module[:80]}.{name[:80]}"))  # it may hold anything, terminal codes too
        return _GLOBALS[module, name]

    def _load_reduce(self) -> None:
        if not isinstance(self.stack[-2], _Admitted):
            raise _Refused("a call of something that is not admitted")
        self.load_reduce()

    def _load_build(self) -> None:
        target = self.stack[-2]
        if isinstance(target, np.ndarray):  # not load_build, by which numpy would see the state unchecked
            _fill(target, self.stack.pop())
        elif isinstance(target, _Dtype):
            self.load_build()
        else:
            raise _Refused(f"a change of state of a {type(target).__name__}")

    def _load_bytearray(self) -> None:
        # The inherited method allocates the announced length before it reads.
        length, = struct.unpack("<Q", self.read(8))
        self.append(bytearray(self.read(length)))

    def _removed(self) -> None:
        raise _Refused("an object of an arbitrary class or an external buffer")

    for _code in _REMOVED:
        dispatch[_code[0]] = _removed
    dispatch[pickle.REDUCE[0]] = _load_reduce
    dispatch[pickle.BUILD[0]] = _load_build
    dispatch[pickle.BYTEARRAY8[0]] = _load_bytearray
