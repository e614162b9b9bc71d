"""YAML files and key=value overrides -> strict, typed configurations.

A configuration is a class derived from ``Config`` (a frozen pydantic model): every field has a type, a default or
none, and a description. A file may name another with ``base: other.yaml`` (relative to itself) and change only what
differs. Unknown keys are errors that name the nearest known one.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from skelcore.errors import InputError


class Config(BaseModel):
    """Base of all configurations: immutable, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


C = TypeVar("C", bound=Config)


def load(cls: type[C], path: str | Path | Iterable[str | Path] | None = None, overrides: Iterable[str] = (),
         section: tuple[str, ...] = ()) -> C:
    """Read YAML files, each changing what it names in those before, apply ``key.sub=value`` overrides, and validate.

    ``section`` names where the configuration sits inside a larger file; it is used when the file has that section.
    Raises InputError with one line for a missing file, bad YAML, an unknown key or a value of the wrong type.
    """
    paths = [path] if isinstance(path, str | Path) else list(path or ())
    values: dict[str, Any] = {}
    for each in paths:
        values = _merge(values, _read(Path(each), section))
    for override in overrides:
        _override(cls, values, override)
    return build(cls, values, where=" + ".join(map(str, paths)) or "command line")


def build(cls: type[C], values: Mapping[str, Any], where: str) -> C:
    """Validate plain values as a configuration; ``where`` is named in the error."""
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        raise InputError(f"{where}: " + "; ".join(_explain(cls, detail) for detail in error.errors())) from None


def digest(config: Config, exclude: set[str] | Mapping[str, bool | set[str]] | None = None) -> str:
    """Short hash of a configuration's content, equal on every platform."""
    text = json.dumps(config.model_dump(mode="json", exclude=exclude), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | str]]:
    """Dotted names and values of a dumped configuration: numbers as they are, everything else as text."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        else:
            number = isinstance(value, int | float) and not isinstance(value, bool)
            yield prefix + key, value if number else str(value)


def schema(cls: type[Config], prefix: str = "") -> str:
    """One line a field: key, type, default, description; nested configurations are dotted, a union's one by one."""
    lines = []
    for name, field in cls.model_fields.items():
        kinds, several = _nested(field.annotation), isinstance(field.annotation, type) is False
        if not kinds or _holds_others(field.annotation):
            kind = _words(field.annotation)
            for nested in kinds:
                kind = kind.replace(f"{nested.__module__}.{nested.__name__}", f"{{{name} below}}")
            default = "required" if field.is_required() else repr(field.get_default(call_default_factory=True))
            lines.append(f"  {prefix}{name}: {kind} = {default}\n      {field.description or ''}".rstrip())
        for nested in kinds:
            if several:
                tag = f".name={_tag(nested)}" if _tag(nested) else ""
                lines.append(f"  {prefix}{name}{tag}: {(nested.__doc__ or nested.__name__).splitlines()[0]}")
            lines.append(schema(nested, f"{prefix}{name}."))
    return "\n".join(lines)


def _words(annotation: Any) -> str:
    """A type as a user would write it, without the bounds of its values, which an error tells."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0])
    if origin in (Union, UnionType):
        return " | ".join(map(_words, arguments))
    if isinstance(origin, type):
        return f"{origin.__name__}[{', '.join(map(_words, arguments))}]"
    if isinstance(annotation, type):
        name = annotation.__name__.replace("NoneType", "None")
        return f"{annotation.__module__}.{name}" if issubclass(annotation, BaseModel) else name  # as ``schema`` asks
    return str(annotation).replace("typing.", "")


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
        if isinstance(inner, str):
            raise InputError(f"override {override!r}: {parent} is {inner!r} already, and a part would replace it all")
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
    owners: list[type[Config]] = [cls]
    for parent in parents:
        owners = [kind for owner in owners if (field := owner.model_fields.get(parent))
                  for kind in _nested(field.annotation)]
    fields = [field for owner in owners if (field := owner.model_fields.get(name))]
    return tuple(kind for field in fields for kind in (field.annotation, *get_args(field.annotation)))


def _nested(annotation: Any) -> list[type[Config]]:
    """The configurations in an annotation: itself, those of a union, of a list's items."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [kind for part in get_args(annotation) for kind in _nested(part)]


def _holds_others(annotation: Any) -> bool:
    """Whether a value may be something else than one configuration or none."""
    return any(not (part is type(None) or (isinstance(part, type) and issubclass(part, Config)))
               for part in get_args(annotation))


def _explain(cls: type[Config], detail: Any) -> str:
    location = [str(part) for part in detail["loc"]]
    key = ".".join(location)
    if detail["type"] == "union_tag_invalid":
        known = [name.strip(" '") for name in detail["ctx"]["expected_tags"].split(",")]
        tag, field = detail["ctx"]["tag"], detail["ctx"]["discriminator"].strip("'")
        return f"{key}.{field}: unknown {tag!r}{_hint(tag, known) or '; known: ' + ', '.join(known)}"
    owners: list[type[Config]] = [cls]
    path: list[str] = []
    for part in location[:-1]:
        inner = [kind for owner in owners if (field := owner.model_fields.get(part))
                 for kind in _nested(field.annotation)]
        if inner:
            path.append(part)
        elif chosen := [owner for owner in owners if part in (_tag(owner), owner.__name__)]:
            inner = chosen  # pydantic names the kind of a union in the location
        else:
            path.append(part)  # a position in a list or a key of a dict
        owners = inner or owners
    key = ".".join([*path, location[-1]]) if location else key
    if detail["type"] != "extra_forbidden":
        got = "" if detail["type"] == "missing" else f" (got {detail['input']!r})"  # for those, all of its neighbours
        return f"{key or 'configuration'}: {detail['msg'][0].lower()}{detail['msg'][1:]}{got}"
    known = [name for owner in owners for name in owner.model_fields]
    return f"unknown key {key!r}{_hint(location[-1], known) or '; see --help for the known keys'}"


def _tag(kind: type[Config]) -> str:
    """The name by which a union knows the configuration."""
    field = kind.model_fields.get("name")
    return str(field.default) if field else ""


def _hint(word: str, known: Iterable[str]) -> str:
    near = get_close_matches(word, list(known), 1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""
