"""Typed, locked parameters: YAML → frozen dataclasses, where an unknown key or a wrong type is an error."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from components.base.errors import FarposeError, unknown_name

T = TypeVar("T")
REPOSITORY = Path(__file__).resolve().parents[2]
PARAMS = REPOSITORY / "params"


def load_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        FarposeError: the file is missing, is not YAML (the error names line and column) or is not a mapping.
    """
    path = Path(path)
    try:
        value = yaml.load(path.read_text(), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise FarposeError("parameter file not found", where=path) from None
    except yaml.YAMLError as error:
        raise FarposeError(f"not valid YAML: {' '.join(str(error).split())}", where=path) from error
    if not isinstance(value, dict):
        raise FarposeError("expected a mapping of keys to values", where=path)
    return value


class _UniqueKeyLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml is ten times faster
    """Safe loader for which a repeated key is an error, not a silent override."""


def _mapping_with_unique_keys(loader: yaml.SafeLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
    repeated = next((key for key in keys if keys.count(key) > 1), None)
    if repeated is not None:
        raise yaml.YAMLError(f"key {repeated!r} appears twice,{node.start_mark}")
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor("tag:yaml.org,2002:map", _mapping_with_unique_keys)


@functools.cache
def _type_hints(cls: Any) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def parse(cls: type[T], value: Any, where: str) -> T:
    """Build the dataclass `cls` from a mapping, recursively. `null` in a field's metadata is the value that people mean by null there.

    Args:
        where: place named in errors, such as `params/train.yaml: train`.
    Raises:
        FarposeError: unknown key (the nearest known one is suggested), missing key, or a value of the wrong type.
    """
    if not isinstance(value, dict):
        raise FarposeError(f"expected a mapping, got {value!r}", where=where)
    hints = _type_hints(cls)  # type: ignore[arg-type]
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in value:
        if key not in fields:
            raise unknown_name("parameter", str(key), fields, where=where)
    for name, field in fields.items():
        if name not in value and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise FarposeError(f"parameter {name!r} is missing", where=where)
    for key, item in value.items():
        if item is None and "null" in fields[key].metadata:
            raise FarposeError("null is none of its values", where=f"{where}.{key}", fix=f"write `{key}: {fields[key].metadata['null']}`")
    parsed = {key: _convert(hints[key], item, f"{where}.{key}") for key, item in value.items()}
    try:
        return cls(**parsed)
    except ValueError as error:  # a dataclass's own __post_init__ check
        raise FarposeError(str(error), where=where) from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return _convert_to_any([a for a in arguments if a is not type(None)], value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise unknown_name("value", str(value), map(str, arguments), where=where)
        return value
    if dataclasses.is_dataclass(hint):
        return parse(hint, value, where)  # type: ignore[arg-type]
    if origin in (tuple, list):
        return _convert_sequence(origin, arguments, value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong_type("a mapping", value, where)
        return {str(key): _convert(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    return _convert_scalar(hint, value, where)


def _convert_to_any(hints: list[Any], value: Any, where: str) -> Any:
    for hint in hints[:-1]:
        try:
            return _convert(hint, value, where)
        except FarposeError:
            continue
    return _convert(hints[-1], value, where)


def _convert_sequence(origin: Any, arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, list | tuple):
        raise _wrong_type("a list", value, where)
    if origin is list or arguments[-1] is Ellipsis:
        return origin(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(arguments):
        raise FarposeError(f"expected {len(arguments)} values, got {len(value)}: {value!r}", where=where)
    return tuple(_convert(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(arguments, value, strict=True)))


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str):  # 1e-3 is a string in YAML 1.1
        try:
            return float(value)
        except ValueError:
            raise _wrong_type("a number", value, where) from None
    if type(value) is hint:
        return value
    raise _wrong_type({int: "an integer", float: "a number", str: "a text", bool: "true or false"}.get(hint, str(hint)), value, where)


def _wrong_type(expected: str, value: Any, where: str) -> FarposeError:
    return FarposeError(f"expected {expected}, got {value!r}", where=where)
