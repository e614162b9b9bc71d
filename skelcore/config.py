"""YAML files and key=value overrides -> strict, typed configurations.

A configuration is a class derived from ``Config`` (a frozen pydantic model): every field has a type, a default or
none, and a description. A file may name another with ``base: other.yaml`` (relative to itself) and change only what
differs. Unknown keys are errors that name the nearest known one.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from skelcore.errors import InputError


class Config(BaseModel):
    """Base of all configurations: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=Config)


def load(cls: type[C], path: str | Path | None = None, overrides: Iterable[str] = (),
         section: tuple[str, ...] = ()) -> C:
    """Read a YAML file, apply ``key.sub=value`` overrides, and validate.

    ``section`` names where the configuration sits inside a larger file; it is used when the file has that section.
    Raises InputError with one line for a missing file, bad YAML, an unknown key or a value of the wrong type.
    """
    values = _read(Path(path), section) if path is not None else {}
    for override in overrides:
        _override(cls, values, override)
    return build(cls, values, where=str(path) if path is not None else "command line")


def build(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """Validate plain values as a configuration; ``where`` is named in the error."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: " + "; ".join(_explain(cls, detail) for detail in error.errors())) from None


def digest(config: Config, exclude: set[str] | None = None) -> str:
    """Short hash of a configuration's content, equal on every platform."""
    text = json.dumps(config.model_dump(mode="json", exclude=exclude), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def schema(cls: type[Config], prefix: str = "") -> str:
    """One line a field: key, type, default, description; nested configurations are dotted."""
    lines = []
    for name, field in cls.model_fields.items():
        nested = _nested(field.annotation)
        if nested:
            lines.append(schema(nested, f"{prefix}{name}."))
            continue
        kind = getattr(field.annotation, "__name__", None) if not get_args(field.annotation) else None
        kind = kind or str(field.annotation).replace("typing.", "")
        default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
        lines.append(f"  {prefix}{name}: {kind} = {default}\n      {field.description or ''}".rstrip())
    return "\n".join(lines)


def _read(path: Path, section: tuple[str, ...] = (), seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    if path.resolve() in seen:
        raise InputError(f"{path}: `base:` leads back to this file")
    try:
        values = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot read the configuration: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: the top level must be `key: value` lines")
    inner: Any = values
    for key in section:
        inner = inner.get(key) if isinstance(inner, dict) else None
    if section and isinstance(inner, dict):
        values = inner
    base = values.pop("base", None)
    if base is None:
        return values
    if not isinstance(base, str):
        raise InputError(f"{path}: `base:` must name a file")
    return _merge(_read(path.parent / base, section, (*seen, path.resolve())), values)


def _merge(base: dict[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        inner = merged.get(key)
        merged[key] = _merge(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return merged


def _override(cls: type[Config], values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise InputError(f"override {override!r} must read key=value")
    *parents, last = key.split(".")
    for parent in parents:
        inner = values.get(parent)
        values[parent] = inner = dict(inner) if isinstance(inner, dict) else {}
        values = inner
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise InputError(f"override {override!r}: the value is not valid YAML; quote it: {key}='\"...\"'") from None
    kinds = _kinds(cls, parents, last)
    # A folder may be called 2024, 010 or 2024-05-01: a field of text gets what was typed, not what YAML made of it.
    typed = isinstance(value, int | float | datetime.date) and str in kinds and type(value) not in kinds
    values[last] = text if typed else value


def _kinds(cls: type[Config], parents: Iterable[str], name: str) -> tuple[Any, ...]:
    """The type of the field at a dotted key and, for a union, those in it; empty for an unknown key."""
    owner: type[Config] | None = cls
    for parent in parents:
        field = owner.model_fields.get(parent) if owner else None
        owner = _nested(field.annotation) if field else None
    field = owner.model_fields.get(name) if owner else None
    return (field.annotation, *get_args(field.annotation)) if field else ()


def _nested(annotation: Any) -> type[Config] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Config):
            return kind
    return None


def _explain(cls: type[Config], detail: Any) -> str:
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location)
    if detail["type"] != "extra_forbidden":
        got = "" if detail["type"] == "missing" else f" (got {detail['input']!r})"  # for those, all of its neighbours
        return f"{key or 'configuration'}: {detail['msg'][0].lower()}{detail['msg'][1:]}{got}"
    owner: type[Config] | None = cls
    for part in location[:-1]:
        field = owner.model_fields.get(part) if owner else None
        owner = _nested(field.annotation) if field else owner  # a position in a list or a key of a dict
    near = get_close_matches(location[-1], owner.model_fields if owner else [], 1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else "; see --help for the known keys"
    return f"unknown key {key!r}{hint}"
