# SPDX-License-Identifier: LGPL-2.1-or-later
"""Values to bytes and back: the only module that imports a D-Bus library.

The library is dbus-next, or dbus-fast where dbus-next cannot be imported. What is used of it:

- public: ``Variant``, and ``SignatureTree(signature).verify(values)``, which checks values to be sent;
- private: ``_private.marshaller``. Neither library has a public way to marshal values without its own
  connection, which does not survive what other programs on the bus send.

The package's ``__init__`` is not run: it imports GLib, an XML parser and the library's own connections.
Measured on Python 3.11, where all of the idle daemon has 16 MiB of its own: ``import dbus_next`` (0.2.3)
takes 4.9 MiB and 25 ms, the modules used here take 0.2 MiB and 3 ms; dbus-fast (5.2) takes 3.1 MiB and 25 ms
against 0.7 MiB and 4 ms.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from ..system.printable import encodable
from .unmarshal import split, unmarshal

if TYPE_CHECKING:
    from collections.abc import Sequence

    class Variant:
        """A value that carries its own signature."""

        signature: str
        value: Any

        def __init__(self, signature: Any, value: Any) -> None: ...


_MAX_SIGNATURES = 128
_MEMOISED_BODY = 128  # bytes: a request, or a property's name; also bounds what hostile bodies can pin
_MEMOISED_BODIES = 128


class Library(NamedTuple):
    """What is used of a D-Bus library.

    Attributes:
        name: ``dbus_next`` or ``dbus_fast``.
    """

    name: str
    variant: Any
    signature_tree: Any
    marshaller: Any


def load_library(name: str) -> Library:
    """Import the modules that are used of a library, and only those.

    Raises:
        ImportError: the library is not there, or has not what is used of it.
    """
    before = set(sys.modules)
    try:
        if name not in before:
            spec = importlib.util.find_spec(name)
            if spec is None:
                raise ImportError(f"there is no {name}")
            sys.modules[name] = importlib.util.module_from_spec(spec)
        importlib.import_module(f"{name}.errors")  # first: the modules import one another in a circle
        signature = importlib.import_module(f"{name}.signature")
        marshaller = importlib.import_module(f"{name}._private.marshaller").Marshaller
        return Library(name, signature.Variant, signature.SignatureTree, marshaller)
    except (ImportError, AttributeError) as error:
        for module in set(sys.modules) - before:
            if module.partition(".")[0] == name:
                del sys.modules[module]
        raise ImportError(f"{name} {_version(name)} cannot be used: {error}") from error


def _version(name: str) -> str:
    import importlib.metadata  # 1.2 MiB, of use only here

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "(of no known version)"


def _first_library() -> Library:
    reasons = []
    for name in ("dbus_next", "dbus_fast"):
        try:
            return load_library(name)
        except ImportError as error:
            reasons.append(str(error))
    raise ImportError(f"install python3-dbus-next or dbus-fast: {'; '.join(reasons)}")


_library = _first_library()
LIBRARY = _library.name
"""The library in use: ``dbus_next`` or ``dbus_fast``."""

if not TYPE_CHECKING:
    Variant = _library.variant

_signature_tree = functools.lru_cache(maxsize=_MAX_SIGNATURES)(_library.signature_tree)


def _release(used: object) -> None:
    """Free what dbus-next's objects hold: they refer to themselves, and stay until garbage is collected."""
    getattr(used, "__dict__", {}).clear()


def encode(signature: str, values: Sequence[Any]) -> bytes:
    """The body of a message to be sent, little-endian.

    Args:
        signature: the types of the values. Structs are given as lists, ``ay`` as bytes.
        values: one value for each complete type. Text that cannot travel on the bus (a NUL, or a surrogate,
            as in a file name that is not UTF-8) is escaped: an odd name must not fail the whole answer.

    Raises:
        ValueError: a value is not of its type.
    """
    try:
        return encode_exactly(signature, values)
    except ValueError:
        harmless = escaped(list(values))
        if harmless == list(values):
            raise
        return encode_exactly(signature, harmless)


def escaped(value: Any) -> Any:
    """A value whose text can travel on the bus; the same if it can already."""
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, Variant):
        return Variant(value.signature, escaped(value.value))
    if isinstance(value, dict):
        return {escaped(key): escaped(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [escaped(item) for item in value]
    return value


def encode_exactly(signature: str, values: Sequence[Any]) -> bytes:
    """As `encode`, for what must not become something else, such as a question to others.

    Raises:
        ValueError: a value is not of its type, or holds text that cannot travel on the bus.
    """
    body = list(values)
    try:
        split(signature)
        _signature_tree(signature).verify(body)
        marshaller = _library.marshaller(signature, body)
        encoded = bytes(marshaller.marshall())
        _release(marshaller)
        # The libraries let different things pass, and the bus ends the connection for any of them.
        unmarshal(signature, encoded, big_endian=False)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise ValueError(f"not values of signature '{signature}': {error}") from error
    return encoded


def decode(signature: str, body: bytes, *, big_endian: bool = False, once: bool = False) -> list[Any]:
    """The values of a message's body.

    Small bodies are remembered, because callers ask the same things again and again, unless this one is seen
    only ``once``. So the values may be shared: treat them as immutable. Structs are lists, and
    ``ay`` is bytes.

    Raises:
        ValueError: the body is not what its signature says.
    """
    if not signature:
        return []
    if not once and len(body) <= _MEMOISED_BODY:
        return _decode_memoised(signature, body, big_endian)
    return _decode(signature, body, big_endian)


def _decode(signature: str, body: bytes, big_endian: bool) -> list[Any]:  # noqa: FBT001 - lru_cache is faster
    try:
        return unmarshal(signature, body, _make_variant, big_endian=big_endian)
    except ValueError as error:
        raise ValueError(f"not a body of signature '{signature}': {error}") from None


_decode_memoised = functools.lru_cache(maxsize=_MEMOISED_BODIES)(_decode)


def _make_variant(signature: str, value: Any) -> Variant:
    # Not from the text: the library would remember its parsed form for ever, and callers choose it.
    return Variant(_signature_tree(signature), value)
