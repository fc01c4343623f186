"""From plain data to frozen dataclasses, strictly. Standard library only.

`from_dict` refuses unknown keys, missing fields and wrong types with a `ConfigError` that names the closest match, so
a misspelt setting is never ignored.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from typing import Any, TypeVar

from linearsr.errors import ConfigError

__all__ = ["from_dict", "to_dict"]

T = TypeVar("T")


def to_dict(config: Any) -> dict[str, Any]:  # noqa: ANN401
    """Turn a config into plain dicts and lists that JSON can hold."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], data: object, *, where: str = "") -> T:
    """Build a config dataclass from plain data, strictly.

    Args:
        cls: a dataclass of this project.
        data: mapping as from JSON or TOML.
        where: path of the section, for messages.

    Raises:
        ConfigError: unknown or missing key, or a value of another type.
    """
    if not isinstance(data, dict):
        raise ConfigError(f"{where or cls.__name__} is {data!r}, expected a table of settings")
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in data:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            known = f"known here: {', '.join(sorted(fields))}"
            raise ConfigError(
                f"unknown setting {_join(where, key)!r}",
                hint=f"did you mean {_join(where, close[0])!r}?" if close else known,
            )
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, spec in fields.items():
        if name in data:
            values[name] = _convert(hints[name], data[name], _join(where, name))
        elif spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING:
            raise ConfigError(f"setting {_join(where, name)!r} is missing, and it has no default")
    return cls(**values)


def _join(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _convert(hint: Any, value: Any, where: str) -> Any:  # noqa: ANN401
    """Check `value` against a type hint; lists become tuples, integers become floats where a float is asked for."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where=where)  # type: ignore[arg-type]
    if origin in (types.UnionType, typing.Union):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is typing.Literal:
        if value not in args:
            raise ConfigError(f"{where} is {value!r}, expected one of {', '.join(map(repr, args))}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return _convert_tuple(args, value, where)
    if origin is dict and isinstance(value, dict):
        return {key: _convert(args[1], item, _join(where, key)) for key, item in value.items()}
    if hint is Any:
        return value
    return _convert_plain(hint if origin is None else origin, value, where)


def _convert_plain(kind: type, value: Any, where: str) -> Any:  # noqa: ANN401
    is_bool = isinstance(value, bool)
    if kind is float and isinstance(value, int) and not is_bool:
        return float(value)
    if not isinstance(value, kind) or (is_bool and kind is not bool):
        raise ConfigError(f"{where} is {value!r}, expected {kind.__name__}")
    return value


def _convert_tuple(args: tuple[Any, ...], value: list[Any] | tuple[Any, ...], where: str) -> tuple[Any, ...]:
    kinds = [args[0]] * len(value) if args[1:] == (...,) else list(args)
    if len(kinds) != len(value):
        raise ConfigError(f"{where} is {list(value)}, expected {len(kinds)} values")
    pairs = enumerate(zip(kinds, value, strict=True))
    return tuple(_convert(kind, item, f"{where}[{index}]") for index, (kind, item) in pairs)
