# SPDX-License-Identifier: LGPL-2.1-or-later
"""Records: dataclasses that are kept as JSON, and read back from files that anything may have changed."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import Corrupt
from ..system import files

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from _typeshed import DataclassInstance

R = TypeVar("R", bound="DataclassInstance")
T = TypeVar("T")

_MAX_NUMBER = 2**64
_MAX_SIZE = 4 << 20  # bytes


class OtherVersion(ValueError):
    """A record that another version of the daemon wrote."""


def encode(record: DataclassInstance, version: int) -> bytes:
    """A record as JSON, with its version."""
    return json.dumps({"version": version, **dataclasses.asdict(record)}, indent=1).encode() + b"\n"


def decode(cls: type[R], data: bytes, version: int) -> R:
    """Read what `encode` wrote.

    Fields are strings, booleans, numbers that are not negative, or tuples of strings. One with a default may
    be missing: the daemon that wrote the record did not know it.

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
    fields = dataclasses.fields(cls)
    kinds = {field.name: str(field.type) for field in fields}
    optional = {field.name for field in fields if field.default is not dataclasses.MISSING}
    if different := (set(kinds) ^ set(values)) - (optional - set(values)):
        raise ValueError(f"missing or unknown keys: {', '.join(sorted(different))}")
    return cls(**{name: _checked(name, kinds[name], value) for name, value in values.items()})


def read(path: Path, decode_record: Callable[[bytes], T]) -> tuple[T, int]:
    """Read a record file.

    Returns:
        The record, and when the file was last modified: microseconds since the epoch, not after now.

    Raises:
        OtherVersion: it is one of another version.
        Corrupt: it is none.
        OSError: it cannot be read now.
    """
    try:
        with files.opened(path, follow=False) as (descriptor, status):
            record = decode_record(files.read_up_to(descriptor, _MAX_SIZE))
    except OtherVersion:
        raise
    except (FileNotFoundError, NotADirectoryError, files.UnfitFile, ValueError, RecursionError) as error:
        raise Corrupt(f"{path.name} cannot be used: {error}") from None
    return record, min(status.st_mtime_ns // 1000, time.time_ns() // 1000)


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


def on_monotonic_clock(microseconds: int) -> float:
    """A time since the epoch, in seconds on the monotonic clock; now if it is in the future.

    That clock goes on where the other one jumps.
    """
    return time.monotonic() - max(0, time.time_ns() // 1000 - microseconds) / 1e6
