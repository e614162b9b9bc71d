"""One ONNX model: image batches in, arrays out, on the best provider that is there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import numpy as np

from harvest.estimators.download import Weights, unzipped
from skelcore.errors import InputError, RunError

_PROVIDERS = {"tensorrt": "TensorrtExecutionProvider", "cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_GREY = 114  # what a trial picture is filled with


class Session:
    """A model with one input (N, 3, H, W) of floats; ``size`` (height, width) is read from its graph.

    Where the graph leaves height and width open, ``size`` must be given. A model of one fixed N gets its last batch
    filled up. Raises InputError for another model, or a provider that is not there; RunError without ONNX Runtime.
    """

    def __init__(self, weights: Weights, providers: Sequence[str] | None = None, threads: int = 1,
                 size: tuple[int, int] | None = None, batch: int = 16) -> None:
        try:
            import onnxruntime
        except ImportError:
            raise RunError("the estimators onnx and mmpose need ONNX Runtime: pip install onnxruntime, or "
                           "onnxruntime-gpu for CUDA and TensorRT") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # other workers want the cores
        options.log_severity_level = 3
        self.name, self.runtime = weights.name, f"onnxruntime {onnxruntime.__version__}"
        chosen = _available(onnxruntime.get_available_providers(), providers)
        if chosen[0] != _PROVIDERS["cpu"]:
            onnxruntime.preload_dlls()  # CUDA's libraries as pip installs them, torch's own among them
        try:
            # From memory, so that what was checked is what runs; a model may name further files of weights, which are
            # looked for in an empty folder.
            with tempfile.TemporaryDirectory(prefix="skelshot-") as empty:
                options.add_session_config_entry("session.model_external_initializers_file_folder_path", empty)
                self._session = onnxruntime.InferenceSession(unzipped(weights, ".onnx").content, options, chosen)
        except Exception as error:  # ONNX Runtime raises classes of its own for each kind of damage
            if isinstance(error, InputError):
                raise
            raise InputError(f"{self.name}: ONNX Runtime cannot load it ({_line(error)}); it must be one .onnx file "
                             "that holds its weights") from None
        self.providers = self._session.get_providers()
        if providers and self.providers[0] != chosen[0]:
            raise InputError(f"providers: {providers[0]} is there but does not start (ONNX Runtime fell back to "
                             f"{', '.join(self.providers)}); check its CUDA libraries")
        inputs = self._session.get_inputs()
        shape = inputs[0].shape if inputs else []
        if len(inputs) != 1 or inputs[0].type not in _TYPES or len(shape) != 4 or shape[1] != 3:
            raise InputError(f"{self.name}: its inputs are {_words(inputs)}; expected one, floats (N, 3, height, "
                             "width)")
        self._input, self._type = inputs[0].name, _TYPES[inputs[0].type]
        self._fixed = shape[0] if isinstance(shape[0], int) else None
        self._batch = self._fixed or batch
        self.size = self._sized(shape[2:], size)
        # Exporters often leave the outputs' shapes open, so one look at a grey picture tells them.
        self.trial = self(np.full((1, 3, *self.size), _GREY, np.float32))
        self.outputs = _words(self._session.get_outputs())

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """The outputs, each (N, ...) float32 or integers, for images (N, 3, H, W); N of 1 or more."""
        parts = [self._run(images[i:i + self._batch]) for i in range(0, len(images), self._batch)]
        return [np.concatenate(each) for each in zip(*parts, strict=True)]

    def _run(self, images: np.ndarray) -> list[np.ndarray]:
        lacking = (self._fixed or len(images)) - len(images)
        if lacking:
            images = np.concatenate([images, np.zeros((lacking, *images.shape[1:]), images.dtype)])
        try:
            found = self._session.run(None, {self._input: np.ascontiguousarray(images, self._type)})
        except Exception as error:  # as above
            raise RunError(f"{self.name}: ONNX Runtime failed on {images.shape} ({_line(error)})") from None
        count = len(images) - lacking
        return [each.astype(np.float32)[:count] if each.dtype.kind == "f" else each[:count] for each in found]

    def _sized(self, shape: Sequence[object], size: tuple[int, int] | None) -> tuple[int, int]:
        fixed = [each if isinstance(each, int) else None for each in shape]
        if None in fixed and size is None:
            raise InputError(f"{self.name}: the model leaves its input's height and width open; give them "
                             "(detector_size or pose_size)")
        height, width = (own or given for own, given in zip(fixed, size or fixed, strict=True))
        assert height is not None and width is not None
        if size and (height, width) != size:
            raise InputError(f"{self.name}: the model wants images of {height} x {width}, not {size[0]} x {size[1]}")
        return height, width


def planes(images: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Images (N, H, W, 3) uint8 as a model wants them, (N, 3, H, W) float32, less ``mean`` (3,) and over ``std``."""
    count, height, width, _ = images.shape
    made = np.empty((count, 3, height, width), np.float32)
    np.multiply(images.transpose(0, 3, 1, 2), (1 / std)[:, None, None], out=made)  # five times as fast as by pixels
    made -= (mean / std)[:, None, None]
    return made


def _available(there: Sequence[str], wanted: Sequence[str] | None) -> list[str]:
    if wanted is None:
        return [_PROVIDERS[name] for name in ("cuda", "cpu") if _PROVIDERS[name] in there]
    for name in wanted:
        if _PROVIDERS[name] not in there:
            raise InputError(f"providers: {name} is not in this ONNX Runtime (it has {', '.join(there)}); "
                             "pip install onnxruntime-gpu in place of onnxruntime")
    return [_PROVIDERS[name] for name in wanted]


def _words(values: Sequence[object]) -> str:
    return ", ".join(f"{getattr(each, 'name', '')} {getattr(each, 'shape', '')} {getattr(each, 'type', '')}"
                     for each in values) or "none"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
