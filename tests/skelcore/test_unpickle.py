"""The safe unpickler reads what numpy writes in every protocol, and nothing that does anything else."""

from __future__ import annotations

import collections
import contextlib
import io
import os
import pickle
import struct
import subprocess
import tracemalloc
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skelcore import unpickle
from skelcore.errors import InputError

_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
    | st.builds(bytearray, st.binary()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    | st.tuples(inner, inner) | st.sets(st.integers(), max_size=4) | st.frozensets(st.text(), max_size=4),
    max_leaves=12)
_DTYPES = st.sampled_from(["f2", "f4", "f8", ">f4", "i1", "i2", "i4", "i8", ">i2", "u1", "u8", "?", "U3", "S2"])


def load(data: bytes) -> Any:
    return unpickle.load(io.BytesIO(data), "x.pkl")


def refused(data: bytes) -> str:
    with pytest.raises(InputError, match=r"^x\.pkl: ") as caught:
        load(data)
    return str(caught.value)


@settings(max_examples=100, deadline=None)
@given(_PLAIN, st.integers(3, 5))
def test_builtin_containers_come_back(value: Any, protocol: int) -> None:
    if protocol < 5:  # older protocols name the builtin bytearray, which takes a size and so is not admitted
        assert load(pickle.dumps(_without_bytearrays(value), protocol=protocol)) == _without_bytearrays(value)
    else:
        assert load(pickle.dumps(value, protocol=protocol)) == value


def _without_bytearrays(value: Any) -> Any:
    if isinstance(value, bytearray):
        return bytes(value)
    if isinstance(value, dict):
        return {key: _without_bytearrays(inner) for key, inner in value.items()}
    return type(value)(map(_without_bytearrays, value)) if isinstance(value, (list, tuple)) else value


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(0, 5), st.booleans())
def test_arrays_come_back_in_every_protocol(data: st.DataObject, protocol: int, fortran: bool) -> None:
    array = data.draw(arrays.arrays(data.draw(_DTYPES), arrays.array_shapes(min_dims=0, max_dims=4, min_side=0)))
    array = np.asfortranarray(array) if fortran else array
    dumped = pickle.dumps({"a": [array, array]}, protocol=protocol)
    back, plain = load(dumped)["a"], pickle.loads(dumped)["a"][0]  # noqa: S301
    assert back[0] is back[1]
    assert back[0].dtype == plain.dtype and back[0].shape == array.shape and back[0].strides == plain.strides
    np.testing.assert_array_equal(np.asarray(back[0]), array)


@pytest.mark.parametrize("protocol", range(6))
def test_scalars_and_ordered_dictionaries(protocol: int) -> None:
    value = {"s": np.float16(1.5), "i": np.int64(-3), "b": np.bool_(True), "o": collections.OrderedDict(a=1, b=2)}
    back = load(pickle.dumps(value, protocol=protocol))
    assert back == {"s": 1.5, "i": -3, "b": True, "o": {"a": 1, "b": 2}}
    assert back["s"].dtype == np.float16


def test_old_numpy_module_names_are_known() -> None:
    data = pickle.dumps(np.arange(3.0), protocol=3).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    np.testing.assert_array_equal(load(data), np.arange(3.0))


class Call:
    """Pickles as a call of anything."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(("function", "args", "named"), [
    (os.system, ("touch /tmp/owned",), "system"),
    (subprocess.Popen, (["true"],), ".Popen"),
    (eval, ("1",), ".eval"),
    (exec, ("1",), ".exec"),
    (getattr, ("", "format"), ".getattr"),
    (__import__, ("os",), ".__import__"),
    (open, ("/etc/passwd",), ".open"),
    (bytearray, (1 << 40,), ".bytearray"),
    (range, (10,), "range"),
    (np.load, ("/etc/passwd",), "numpy.load"),
    (np.memmap, ("/etc/passwd",), "memmap"),
    (np.zeros, ((1 << 40,),), ".zeros"),
    (np.fromfile, ("/etc/passwd",), ".fromfile"),
    (np.ndarray, ((1 << 40,),), "a call of numpy.ndarray"),
    (np._core.multiarray._reconstruct, (np.memmap, (0,), b"b"), "memmap"),
    (np.dtype, ("O8",), "dtype 'O8'"),
    (np.dtype, ("V9999999999",), "dtype 'V9999999999'"),
    (np.dtype, ([("a", "f4")],), "a structured dtype"),
])
def test_calls_are_refused_by_name(function: Any, args: Any, named: str, protocol: int) -> None:
    message = refused(pickle.dumps({"annotations": [Call(function, *args)]}, protocol=protocol))
    assert named in message and "\n" not in message


def test_nothing_ran(tmp_path: Any) -> None:
    """The refusal comes before the call, not after it."""
    flag = tmp_path / "owned"
    refused(pickle.dumps(Call(os.mkdir, str(flag))))
    assert not flag.exists()


def test_arrays_of_objects_are_refused() -> None:
    assert "dtype 'O8'" in refused(pickle.dumps(np.array([{}, []], dtype=object)))
    assert "dtype" in refused(pickle.dumps(np.zeros(2, [("a", "f4"), ("b", "O")])))
    assert "dtype" in refused(pickle.dumps(np.datetime64("2020-01-01")))


def test_instances_of_classes_are_refused() -> None:
    for protocol in (0, 2, 5):
        refused(pickle.dumps(collections.Counter("aab"), protocol=protocol))
        refused(pickle.dumps(np.random.default_rng(0), protocol=protocol))
        refused(pickle.dumps(np.float32, protocol=protocol))
        refused(pickle.dumps(Exception("x"), protocol=protocol))


class Array:
    """Pickles as a numpy array with a state of our choice."""

    def __init__(self, *state: Any, shape: Any = (0,)) -> None:
        self.state, self.shape = state, shape

    def __reduce__(self) -> Any:
        return np._core.multiarray._reconstruct, (np.ndarray, self.shape, b"b"), self.state


class Dtype:
    def __init__(self, code: str, *state: Any) -> None:
        self.code, self.state = code, state

    def __reduce__(self) -> Any:
        return np.dtype, (self.code, False, True), self.state


F4, HUGE = np.dtype("f4"), (1 << 20, 1 << 20, 1 << 20)


@pytest.mark.parametrize("evil", [
    Array(1, HUGE, F4, False, b""),
    Array(1, (1 << 62, 4), F4, False, b"1234"),
    Array(1, (-1,), F4, False, b"1234"),
    Array(1, (2,), F4, False, b"1234"),
    Array(1, [1], F4, False, b"1234"),
    Array(1, (1.0,), F4, False, b"1234"),
    Array(1, (1,) * 40, F4, False, b"1234"),
    Array(1, (1,), F4, False, [1.0]),
    Array(1, (1,), "f4", False, b"1234"),
    Array(1, (1,), None, False, b"1234"),
    Array(1, (1,), Dtype("O8", 3, "|", None, None, None, -1, -1, 63), False, b"12345678"),
    Array(1, (1,), Dtype("f4", 3, "|", ("f4", (1 << 60,)), None, None, -1, -1, 63), False, b"1234"),
    Array(1, (1,), Dtype("f4", 3, "|", None, ("a",), {"a": 1}, -1, -1, 63), False, b"1234"),
    Array(1, (1,)),
    Call(np._core.numeric._frombuffer, b"1234", F4, HUGE, "C"),
    Call(np._core.numeric._frombuffer, b"1234", F4, (1,), "K"),
    Call(np._core.multiarray.scalar, F4, b"12345"),
    Call(np._core.multiarray.scalar, Dtype("O8"), [1]),
])
def test_arrays_that_lie_about_themselves_are_refused_before_they_are_allocated(evil: Any) -> None:
    data = pickle.dumps(evil, protocol=4)
    tracemalloc.start()
    try:
        refused(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_the_first_allocation_of_an_array_does_not_follow_the_file() -> None:
    assert load(pickle.dumps(Array(1, (1,), F4, False, b"1234", shape=HUGE))).shape == (1,)


@pytest.mark.parametrize("data", [
    b"\x80\x02]r\xff\xff\xff\x7f.",  # a memo slot that makes the C unpickler allocate 64 GiB
    b"\x80\x05\x96" + struct.pack("<Q", 1 << 40) + b"abc.",  # bytearray8
    b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.",  # binbytes8
    b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"abc.",  # binunicode8
    b"\x80\x04\x95" + struct.pack("<Q", 1 << 40) + b"abc.",  # frame
])
def test_announced_sizes_are_not_believed(data: bytes, tmp_path: Any) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with path.open("rb") as file, contextlib.suppress(InputError):
            assert unpickle.load(file, "x.pkl") == []  # the memo slot is harmless here
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", [
    b"(S'true'\nios\nsystem\n.",  # INST
    b"(cos\nsystem\nS'true'\no.",  # OBJ
    b"\x80\x02cnumpy\nndarray\n)\x81.",  # NEWOBJ
    b"\x80\x02\x82\x01.",  # EXT1
    b"Pabc\n.",  # PERSID
    b"PK\x03\x04\n.",  # a zip archive reads as PERSID too
    b"\x80\x05\x97.",  # NEXT_BUFFER
    b"cnumpy\ndtype\n}(S'__call__'\nI1\nub.",  # BUILD on one of the reader's own functions
    b"]}b.",  # BUILD on a list
    b"S'x'\n(tR.",  # REDUCE of a string
    b"\x80\x04\x8c\x08builtins\x8c\x0cstr.__init__\x93.",  # dotted STACK_GLOBAL
    b"c_codecs\nencode\n(VA\nS'rot13'\ntR.",
])
def test_opcodes_that_only_serve_attacks_are_refused(data: bytes) -> None:
    refused(data)


@pytest.mark.parametrize("data", [b"", b"hello", b"\x80\x04", b"\x80\xff.", b".", b"}", b"h\x05."])
def test_what_is_no_pickle_is_said_to_be_none(data: bytes) -> None:
    assert "not a readable pickle" in refused(data)


def test_every_truncation_is_an_input_error() -> None:
    data = pickle.dumps({"a": np.arange(4, dtype=np.float16), "b": ["x", 1.5, {2}]}, protocol=4)
    for length in range(len(data)):
        refused(data[:length])


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_corruption_gets_past_as_another_error(data: st.DataObject) -> None:
    raw = bytearray(pickle.dumps({"a": np.arange(4, dtype=np.float16), "b": ["x", 1.5, {2}]},
                                 protocol=data.draw(st.integers(0, 5))))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        load(bytes(raw))
    except InputError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_are_plain_and_can_be_pickled_again(protocol: int) -> None:
    back = load(pickle.dumps({"a": np.ones((2, 3), np.float16)}, protocol=protocol))["a"]
    assert type(back) is np.ndarray
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(back)), np.ones((2, 3)))  # noqa: S301
