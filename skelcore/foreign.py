"""Weights of other repositories' networks -> our encoders and back, strictly: every key of a network has its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from skelcore import encoders, layouts, originals
from skelcore.brief import brief
from skelcore.encoders import Encoder
from skelcore.encoders.heatmaps import HeatmapEncoder
from skelcore.errors import InputError
from skelcore.layouts import Layout

_NESTED = ("state_dict", "model", "weights", "net", "model_state_dict")
_COUNTER = "num_batches_tracked"  # files of torch before 0.4.1 lack these, which no output depends on
_SHOWN = 4  # keys of a kind that a report names
_MAX_WIDTH, _MAX_CHANNELS = 1024, 64  # what the shapes in a file can make us allocate
_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int32, torch.int64)
_OTHER_FUNCTION = ("ctrgcn-orig",)  # its keys are in the reference too, where they mean another network


class Inert:
    """What a checkpoint's objects of known foreign classes become: nothing, whatever they are made of."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


# What MMAction2's training log beside the weights consists of; with these names read as ``Inert``, nothing runs.
STAND_INS = [(Inert, name) for name in (
    "mmengine.logging.history_buffer.HistoryBuffer", "numpy.ndarray", "numpy.dtype",
    *(f"numpy.{core}.multiarray.{maker}" for core in ("core", "_core") for maker in ("_reconstruct", "scalar")),
    *(f"numpy.dtypes.{kind}DType" for kind in ("Float32", "Float64", "Int32", "Int64", "Bool")))]


@dataclass(frozen=True)
class ImportReport:
    """What became of a foreign checkpoint's keys, in its own naming.

    ``unused`` are keys of what such files hold beside the network, as its classifier; ``missing`` are batch-norm
    counters that old files lack.
    """

    matched: tuple[str, ...]
    unused: tuple[str, ...]
    missing: tuple[str, ...]

    def __str__(self) -> str:
        return (f"{len(self.matched)} keys matched, {len(self.unused)} unused ({listed(self.unused)}), "
                f"{len(self.missing)} missing ({listed(self.missing)})")


@dataclass(frozen=True)
class Weights:
    """A foreign state dict, its format, and what our own export wrote about it (plain values, not to be trusted)."""

    state: dict[str, Tensor]
    form: originals.Format
    hints: dict[str, Any]
    where: str


def parse(contents: Mapping[str, Any], where: str) -> Weights:
    """Find the state dict in a file's ``contents``, and its format; ``where`` names the file in errors.

    All but batch-norm counters become float32, as encoders are built. Raises InputError for contents without a state
    dict, for values that are no finite weights, and for an unknown format.
    """
    if isinstance(contents.get("spec"), dict) and isinstance(contents.get("encoder"), dict):
        raise InputError(f"checkpoint={where}: is a checkpoint of SkelShot already; it needs no import")
    bare = bool(contents) and all(isinstance(value, Tensor) for value in contents.values())
    inner = contents if bare else next((contents[name] for name in _NESTED if name in contents), None)
    if not isinstance(inner, Mapping) or not inner:
        raise InputError(f"checkpoint={where}: holds no state dict of tensors")
    state = {key: _weight(key, value, where) for key, value in inner.items()}
    if all(key.startswith("module.") for key in state):  # saved from inside DataParallel
        state = {key.removeprefix("module."): value for key, value in state.items()}
    meta = contents.get("meta")
    hints = meta.get("skelshot") if isinstance(meta, dict) else None
    return Weights(state, originals.recognise(state, contents, where), hints if isinstance(hints, dict) else {}, where)


def encoder_for(weights: Weights, name: str | None = None, layout: str | Layout | None = None,
                stream: str = "joint") -> Encoder:
    """A new encoder of the kind and size that the weights are for, from their keys and shapes; not yet filled.

    ``name`` and ``layout`` are asked for where given. Raises InputError where the keys are those of no encoder, or the
    shapes fit no layout or ``stream`` of heatmaps.
    """
    name = name or _recognise(weights)
    probe, where = _probe(name), f"checkpoint={weights.where}"
    theirs, ours = _tensors(weights, probe), to_reference(probe)
    width = _widest(theirs) * probe.width // _widest(ours)
    if not 8 <= width <= _MAX_WIDTH:
        raise InputError(f"{where}: its shapes fit no width of encoder {name}")
    if isinstance(probe, HeatmapEncoder):
        # The first convolution reads the heatmaps, or a number of images made of each.
        first = next(key for key, value in ours.items() if value.ndim >= 4)
        shape = theirs[first].shape if first in theirs else ()
        channels = shape[1] * probe.in_channels // ours[first].shape[1] if len(shape) >= 4 else 0
        return _fitting(weights, name, _heatmap_layout(name, channels, layout, stream, where), channels, width)
    joints = min((value.shape[-1] for key, value in theirs.items() if value.ndim and key.split(".")[-1] in ("A", "PA")),
                 default=0)
    chosen = _layout(joints, layout, where)
    rows = theirs["data_bn.weight"].numel() if "data_bn.weight" in theirs else 0
    slots = len(ours["data_bn.weight"]) // (len(probe.layout) * probe.in_channels)
    channels, rest = divmod(rows, slots * joints)
    if rest or not 1 <= channels <= _MAX_CHANNELS:
        raise InputError(f"{where}: data_bn.weight has {rows} rows, but encoder {name} needs {slots * joints} for each "
                         f"channel of {joints} joints" + (" of two persons" if slots == 2 else ""))
    return _fitting(weights, name, chosen, channels, width)


def _fitting(weights: Weights, name: str, layout: Layout, channels: int, width: int) -> Encoder:
    """Build the encoder, after a sketch of it without memory has shown that all of the file's shapes fit."""
    with torch.device("meta"):
        sketch = encoders.build(name, layout, channels, width)
    _matched(sketch, weights)
    return encoders.build(name, layout, channels, width)


def fill(encoder: Encoder, weights: Weights) -> ImportReport:
    """Copy the weights into ``encoder``; the head is left aside.

    Raises InputError, and leaves the encoder as it was, for a missing or unknown key or a shape that differs.
    """
    values, report = _matched(encoder, weights)
    encoder.load_state_dict(values)
    return report


def _matched(encoder: Encoder, weights: Weights) -> tuple[dict[str, Tensor], ImportReport]:
    """The weights by the encoder's keys, where all of them fit it."""
    form, state, where = weights.form, weights.state, weights.where
    if form.encoder not in (None, encoder.name):
        raise InputError(f"checkpoint={where}: not the weights of {encoder.name}: {form.name} is encoder "
                         f"{form.encoder}")
    mapping = encoder.pyskl_keys()
    wanted = {key for parts in mapping.values() for part in parts if (key := form.key(part)) is not None}
    unused = tuple(key for key in state if key not in wanted and key.startswith(form.asides))
    absent = wanted.difference(state)
    missing = sorted(key for key in absent if not key.endswith(_COUNTER))
    unknown = sorted(set(state).difference(wanted, unused))
    if missing or unknown:
        detail = [f"{len(keys)} keys {what}, such as {brief(keys[0])}"
                  for keys, what in ((missing, "are missing"), (unknown, "are unknown")) if keys]
        raise InputError(f"checkpoint={where}: not the weights of {encoder.name}: {' and '.join(detail)}")
    own = encoder.state_dict()
    values = {key: _join(encoder, key, own[key], parts, weights) for key, parts in mapping.items()}
    return values, ImportReport(tuple(key for key in state if key in wanted), unused, tuple(sorted(absent)))


def head(weights: Weights, dim: int) -> dict[str, Tensor] | None:
    """The linear classifier in the file: ``weight`` (classes, dim) and ``bias`` (classes,); None where there is none.

    Raises InputError for one of other shapes.
    """
    for layer in weights.form.heads:
        found = {leaf: weights.state.get(f"{layer}.{leaf}") for leaf in ("weight", "bias")}
        weight, bias = found["weight"], found["bias"]
        if weight is None and bias is None:
            continue
        if (weight is None or bias is None or bias.ndim != 1 or not len(bias)
                or weight.ndim < 2 or weight.flatten(1).shape != (len(bias), dim)):
            raise InputError(f"checkpoint={weights.where}: {layer} is no classifier of the encoder's {dim} features")
        return {"weight": weight.reshape(len(bias), dim).clone(), "bias": bias.clone()}  # st-gcn's is a convolution
    return None


def to_reference(encoder: Encoder, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The encoder's state dict, or ``values`` keyed like it, in the reference's names without their `backbone.`.

    Raises InputError for an encoder that PYSKL does not have.
    """
    named: dict[str, Tensor] = {}
    mapping = encoder.pyskl_keys()
    for key, value in (encoder.state_dict() if values is None else values).items():
        parts = mapping[key]
        pieces = value.split(_rows(encoder, key, value, parts)) if value.ndim else [value] * len(parts)
        named |= {part: piece.clone() for part, piece in zip(parts, pieces, strict=True)}
    return named


def to_pyskl(encoder: Encoder, values: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The encoder's state dict in PYSKL's naming, or ``values`` (such as gradients) keyed like it.

    Raises InputError for an encoder that PYSKL does not have.
    """
    return {f"backbone.{key}": value for key, value in to_reference(encoder, values).items()}


def listed(keys: tuple[str, ...]) -> str:
    """The first few of a file's keys, and how many more there are."""
    more = len(keys) - _SHOWN
    shown = (brief(key)[1:-1] for key in keys[:_SHOWN])
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "") or "none"


def _rows(encoder: Encoder, key: str, value: Tensor, parts: list[str]) -> list[int]:
    return encoder.pyskl_rows(key) or [len(value) // len(parts)] * len(parts)


def _join(encoder: Encoder, key: str, own: Tensor, parts: list[str], weights: Weights) -> Tensor:
    """One of our tensors from the file's; batch-norm counters, equal in all parts, are taken once."""
    form, pieces = weights.form, []
    shapes = [(rows, *own.shape[1:]) for rows in _rows(encoder, key, own, parts)] if own.ndim else [()] * len(parts)
    for part, shape in zip(parts, shapes, strict=True):
        name = form.key(part)
        if name is None or name not in weights.state:  # constants of the format, and counters
            return own
        piece = weights.state[name]
        if tuple(piece.shape) != shape:
            raise InputError(f"checkpoint={weights.where}: {name} {brief(tuple(piece.shape))}: does not fit the "
                             f"encoder's {shape} (another layout, width or number of input channels?)")
        pieces.append(form.value(part, piece))
    return pieces[0] if not own.ndim else _concatenate(pieces)


def _concatenate(pieces: list[Tensor]) -> Tensor:
    whole = pieces[0].new_empty(sum(map(len, pieces)), *pieces[0].shape[1:])
    for rows, piece in zip(whole.split([len(piece) for piece in pieces]), pieces, strict=True):
        rows.copy_(piece)
    return whole


def _recognise(weights: Weights) -> str:
    """The name of the encoder whose keys are (nearly) those of the file; what differs is for ``fill`` to refuse."""
    if weights.form.encoder:
        return weights.form.encoder
    keys = {key for key in weights.state if not key.endswith(_COUNTER) and not key.startswith(weights.form.asides)}
    likeness: dict[str, float] = {}
    for name in encoders.ENCODERS:
        wanted = {weights.form.key(part) for part in _reference_names(name) if not part.endswith(_COUNTER)}
        if wanted and name not in _OTHER_FUNCTION:
            likeness[name] = len(keys & wanted) / len(keys | wanted)
    nearest = max(likeness, key=likeness.__getitem__)
    if likeness[nearest] < 0.9:
        raise InputError(f"checkpoint={weights.where}: its keys are those of no encoder here; the nearest is "
                         f"{nearest}, which shares {likeness[nearest]:.0%} of them")
    return nearest


@cache
def _probe(name: str) -> Encoder:
    """A small encoder, for the names and the relations of its shapes."""
    return encoders.build(name, "penn13", width=8)


@cache
def _reference_names(name: str) -> frozenset[str]:
    try:
        return frozenset(part for parts in _probe(name).pyskl_keys().values() for part in parts)
    except InputError:  # not in the reference
        return frozenset()


def _tensors(weights: Weights, probe: Encoder) -> dict[str, Tensor]:
    """The file's tensors by the reference's names, as far as there are any."""
    named = ((part, weights.form.key(part)) for parts in probe.pyskl_keys().values() for part in parts)
    return {part: weights.state[key] for part, key in named if key in weights.state}


def _widest(tensors: Mapping[str, Tensor]) -> int:
    """Channels of the largest batch norm, which grow with the encoder's width in every encoder."""
    return max((value.numel() for key, value in tensors.items()
                if key.endswith(".running_mean") and not key.startswith("data_bn.")), default=0)


def _layout(joints: int, wanted: str | Layout | None, where: str) -> Layout:
    if wanted is not None:
        layout = layouts.get(wanted)
        if len(layout) != joints:
            raise InputError(f"{where}: is for {joints} joints, but layout {layout.name} has {len(layout)}")
        return layout
    for layout in layouts.LAYOUTS.values():
        if len(layout) == joints:
            return layout
    raise InputError(f"{where}: is for {joints} joints, which no layout here has: "
                     + ", ".join(f"{layout.name} {len(layout)}" for layout in layouts.LAYOUTS.values()))


def _heatmap_layout(name: str, channels: int, wanted: str | Layout | None, stream: str, where: str) -> Layout:
    """The layout with that many heatmaps of ``stream``."""
    known = layouts.LAYOUTS.values() if wanted is None else [layouts.get(wanted)]
    for layout in known:
        if encoders.channels(name, layout, 2, stream) == channels:
            return layout
    others = (f"which stream {stream} of no layout here gives" if wanted is None else
              f"but stream {stream} of layout {layout.name} gives {encoders.channels(name, layout, 2, stream)}")
    raise InputError(f"{where}: reads {channels} heatmaps, {others}; --stream and --layout choose others")


def is_dense(value: object) -> bool:
    """Whether it is what a state dict holds: a tensor (or parameter) in memory, of numbers."""
    return (isinstance(value, Tensor) and type(value) in (Tensor, nn.Parameter)
            and value.layout == torch.strided and value.device.type == "cpu" and value.dtype in _DTYPES
            # A few bytes seen through strides of zero can be a tensor of any size.
            and value.numel() * value.element_size() <= value.untyped_storage().nbytes())


def _weight(key: object, value: object, where: str) -> Tensor:
    """A file's tensor as an encoder takes it, which is where overflow would show."""
    if isinstance(key, str) and isinstance(value, Tensor) and is_dense(value):
        counter = key.endswith(_COUNTER)
        weight = value.detach() if counter else value.detach().float()
        if (counter or value.is_floating_point()) and weight.isfinite().all():
            if key.endswith("running_var") and (weight < 0).any():
                raise InputError(f"checkpoint={where}: {brief(key)} is negative somewhere, which no variance is")
            return weight
    raise InputError(f"checkpoint={where}: holds no state dict of tensors: {brief(key)} is no dense tensor of finite "
                     "floating-point numbers")
