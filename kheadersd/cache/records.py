"""Records: dataclasses that are kept as JSON, and read back from files that anything may have changed."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")

_MAX_NUMBER = 2**64


class OtherVersion(ValueError):
    """A record that another version of the daemon wrote."""


def encode(record: DataclassInstance, version: int) -> bytes:
    """A record as JSON, with its version."""
    return json.dumps({"version": version, **dataclasses.asdict(record)}, indent=1).encode() + b"\n"


def decode(cls: type[R], data: bytes, version: int) -> R:
    """Read what `encode` wrote.

    Fields are strings, booleans, numbers that are not negative, or tuples of strings.

    Raises:
        OtherVersion: it is one of another version.
        ValueError: it is no record of this class; the message says what is wrong.
    """
    values = json.loads(data.decode())
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    found = values.pop("version", None)
    if type(found) is int and found != version:
        raise OtherVersion(f"its version is {found}, not {version}")
    if found != version:
        raise ValueError(f"its version is {found!r}, not {version}")
    kinds = {field.name: str(field.type) for field in dataclasses.fields(cls)}
    if set(values) != set(kinds):
        raise ValueError(f"missing or unknown keys: {', '.join(sorted(set(kinds) ^ set(values)))}")
    return cls(**{name: _checked(name, kinds[name], value) for name, value in values.items()})


def _checked(name: str, kind: str, value: Any) -> Any:
    if kind.startswith("tuple") and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    if kind == "int":
        is_good = type(value) is int and 0 <= value < _MAX_NUMBER
    elif kind == "bool":
        is_good = isinstance(value, bool)
    elif kind.startswith("tuple"):
        is_good = value is None and kind.endswith("None")
    else:
        is_good = isinstance(value, str)
    if not is_good:
        raise bad_value(name, value)
    return value


def bad_value(name: str, value: object) -> ValueError:
    """The error for a value that a field cannot have."""
    return ValueError(f"{name} cannot be {str(value)[:80]!r}")
