"""How files of the field's repositories name the weights that the reference (PYSKL) also has, one ``Format`` each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from skelcore.brief import brief
from skelcore.errors import InputError


@dataclass(frozen=True)
class Format:
    """One repository's naming.

    ``key`` gives the file's key of a tensor that the reference names so (None: a constant that such files lack),
    ``value`` turns the file's tensor into the reference's. Keys that begin with one of ``asides`` belong to no
    encoder; ``heads`` are the layers that may be the classifier. ``encoder`` is the only one such files can be for.
    """

    name: str
    key: Callable[[str], str | None]
    heads: tuple[str, ...]
    asides: tuple[str, ...]
    encoder: str | None = None
    value: Callable[[str, Tensor], Tensor] = lambda _, tensor: tensor


def _st_gcn_key(name: str) -> str | None:
    numbers = {"gcn": {"bn": "tcn.0", "conv": "gcn.conv"}, "tcn": {"conv": "tcn.2", "bn": "tcn.3"},
               "residual": {"conv": "residual.0", "bn": "residual.1"}}
    match name.split("."):
        case ["gcn", _, "gcn", "A"]:
            return "A"
        case ["gcn", block, "gcn", "PA"]:
            return f"edge_importance.{block}"
        case ["gcn", block, unit, layer, leaf]:
            return f"st_gcn_networks.{block}.{numbers[unit][layer]}.{leaf}"
    return name


def _aagcn_key(name: str) -> str | None:
    match name.split("."):
        case ["A"]:
            return None
        case ["gcn", block, "gcn", "A"]:
            return f"l{int(block) + 1}.gcn1.PA"
        case ["gcn", block, unit, *rest]:
            return ".".join([f"l{int(block) + 1}", {"gcn": "gcn1", "tcn": "tcn1"}.get(unit, unit), *rest])
    return name


def _ctrgcn_key(name: str) -> str | None:
    match name.split("."):
        case ["A"]:
            return None
        case ["net", block, "gcn1", "A"]:
            return f"l{int(block) + 1}.gcn1.PA"
        case ["net", block, *rest]:
            # The reference's graphs are the transposed ones, so the two joints of a pair change places.
            places = {"conv1": "conv2", "conv2": "conv1"} if "convs" in rest else {}
            return ".".join([f"l{int(block) + 1}", *(places.get(part, part) for part in rest)])
    return name


def _ctrgcn_value(name: str, tensor: Tensor) -> Tensor:
    if name.endswith(".gcn1.A"):
        return tensor.mT
    # tanh is odd: with the two joints exchanged, what multiplies it (but not its bias) changes sign.
    return -tensor if name.endswith(".conv4.weight") else tensor


PYSKL = Format("PYSKL", "backbone.{}".format, ("cls_head.fc_cls", "cls_head.fc"), ("cls_head.", "data_preprocessor."))
ST_GCN = Format("st-gcn", _st_gcn_key, ("fcn",), ("fcn.",), "stgcn")
AAGCN = Format("2s-AGCN repository (aagcn)", _aagcn_key, ("fc",), ("fc.",), "aagcn")
CTRGCN = Format("CTR-GCN repository", _ctrgcn_key, ("fc",), ("fc.",), "ctrgcn-orig", _ctrgcn_value)


def recognise(keys: Iterable[str], contents: Mapping[str, Any], where: str) -> Format:
    """The format of a file with these keys; ``contents`` is what stands beside its state dict.

    Raises InputError for a file of none of them, and for 2s-AGCN's network without attention.
    """
    keys = set(keys)
    for prefix in ("backbone.gcn.0.gcn.", "l1.gcn1."):
        if prefix + "conv_d.0.weight" in keys and prefix + "conv_sa.weight" not in keys:
            raise InputError(f"checkpoint={where}: {prefix}conv_sa.weight is missing: these are the weights of 2s-AGCN "
                             "without attention, which is not among the encoders; aagcn is the one with it")
    if any(key.startswith("backbone.") for key in keys):
        modern = "message_hub" in contents or "cls_head.fc.weight" in keys
        return replace(PYSKL, name="MMAction2") if modern else PYSKL
    for mark, form in (("st_gcn_networks.", ST_GCN), ("l1.gcn1.convs.", CTRGCN), ("l1.gcn1.", AAGCN)):
        if any(key.startswith(mark) for key in keys):
            return form
    raise InputError(f"checkpoint={where}: its keys, such as {brief(min(keys, default='(none)'))}, are those of no "
                     "known repository: PYSKL, MMAction2, st-gcn, 2s-AGCN (aagcn) or CTR-GCN")
