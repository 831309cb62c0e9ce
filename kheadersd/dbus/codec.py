"""The only module that imports a D-Bus library: dbus-next, or dbus-fast where dbus-next cannot be imported.

The library gives us marshalling, signatures and the authentication exchange. Its connection does not survive
other people's programs, so that the socket, the framing and the dispatch are ours.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import io
import os
import string
import struct
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from ..system.printable import encodable
from .validation import check_body, split

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

    class Variant:
        """A value that carries its own signature."""

        signature: str
        value: Any

        def __init__(self, signature: str, value: Any) -> None: ...


def _import_library() -> tuple[str, dict[str, ModuleType]]:
    """Import the parts we use, and only those.

    The library's ``__init__`` pulls in GLib, an XML parser and its own connections: 5 MiB and 35 ms that this
    process has no use for. So the package is entered without running it.
    """
    parts = ("errors", "message", "signature", "_private.unmarshaller", "_private.marshaller", "auth")
    addresses = "_private.address"
    for name in ("dbus_next", "dbus_fast"):
        before = set(sys.modules)
        try:
            spec = importlib.util.find_spec(name)
            if spec is None:
                continue
            if name not in sys.modules:
                sys.modules[name] = importlib.util.module_from_spec(spec)
            # In this order: the modules import one another in a circle.
            return name, {part: importlib.import_module(f"{name}.{part}") for part in (*parts, addresses)}
        except ImportError:
            for module in set(sys.modules) - before:
                if module.partition(".")[0] == name:
                    del sys.modules[module]
    raise ImportError(
        "neither dbus-next nor dbus-fast can be imported; install python3-dbus-next or dbus-fast"
    )


LIBRARY, _modules = _import_library()
"""The library in use: ``dbus_next`` or ``dbus_fast``."""

_signatures = _modules["signature"]
_Unmarshaller: Any = _modules["_private.unmarshaller"].Unmarshaller
_Marshaller: Any = _modules["_private.marshaller"].Marshaller
if not TYPE_CHECKING:
    Variant = _signatures.Variant

# Parsed signatures are kept by the library, in dbus-next and older releases of dbus-fast without a bound, and
# callers choose the signatures of their variants. Ours are a few dozen.
_MAX_SIGNATURES = 128

# "Server Addresses" in the D-Bus specification: "optionally-escaped" bytes.
_PLAIN_IN_ADDRESS = frozenset((string.ascii_letters + string.digits + "-_/.\\*").encode())
_MEMOISED_BODY = 128  # bytes: a request, or a property's name; also bounds what hostile bodies can pin
_MEMOISED_BODIES = 128


def _release(used: object) -> None:
    """Free what dbus-next's objects hold: they refer to themselves, and stay until garbage is collected."""
    getattr(used, "__dict__", {}).clear()


def encode(signature: str, values: Sequence[Any]) -> bytes:
    """The body of a message to be sent, little-endian.

    Args:
        signature: the types of the values. Structs are given as lists, ``ay`` as bytes.
        values: one value for each complete type. Text that cannot travel on the bus (a NUL, or a surrogate,
            as in a file name that is not UTF-8) is escaped: one odd name must not fail a whole answer.

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
        _parse_signature(signature).verify(body)
        marshaller = _Marshaller(signature, body)
        encoded = bytes(marshaller.marshall())
        _release(marshaller)
        # The libraries let different things pass, and the bus would end our connection for any of them.
        check_body(signature, encoded, False)
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise ValueError(f"not values of signature '{signature}': {error}") from error
    return encoded


def decode(signature: str, body: bytes, big_endian: bool = False, *, once: bool = False) -> list[Any]:
    """The values of a message's body.

    Small bodies are remembered, because callers ask the same things again and again, unless this one is seen
    only ``once``. So the values may be shared: treat them as immutable. Structs are lists or
    tuples and ``ay`` is bytes or a bytearray, as the library has it.

    Raises:
        ValueError: the body is not what its signature says.
    """
    if not signature:
        return []
    if not once and len(body) <= _MEMOISED_BODY:
        return _decode_memoised(signature, body, big_endian)
    return _decode(signature, body, big_endian)


def _decode(signature: str, body: bytes, big_endian: bool) -> list[Any]:
    try:
        check_body(signature, body, big_endian)
        unmarshaller = _Unmarshaller(io.BytesIO(_minimal_frame(signature, body, big_endian)))
        values = list(unmarshaller.unmarshall().body)
        _release(unmarshaller)
        return values
    except (MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:  # noqa: BLE001 - the library raises nearly everything
        raise ValueError(f"not a body of signature '{signature}': {error}") from None
    finally:
        _forget_signatures()


_decode_memoised = functools.lru_cache(maxsize=_MEMOISED_BODIES)(_decode)


def _minimal_frame(signature: str, body: bytes, big_endian: bool) -> bytes:
    """A method return around the body, with nothing in its header but what the library insists on."""
    order = ">" if big_endian else "<"
    name = signature.encode("ascii")
    fields = struct.pack(order + "4BI", 5, 1, ord("u"), 0, 1) + struct.pack(
        "4BB", 8, 1, ord("g"), 0, len(name)
    )
    fields += name + b"\0"
    head = struct.pack(order + "4BIII", ord("B" if big_endian else "l"), 2, 1, 1, len(body), 1, len(fields))
    return head + fields + bytes(-len(fields) & 7) + body


def _parse_signature(signature: str) -> Any:
    parse = getattr(_signatures, "get_signature_tree", None) or _signatures.SignatureTree._get
    return parse(signature)


def _forget_signatures() -> None:
    """Keep the library's memory of parsed signatures small."""
    parse = getattr(_signatures, "get_signature_tree", None)
    if parse is not None:
        if parse.cache_info().currsize > _MAX_SIGNATURES:
            parse.cache_clear()
    elif len(_signatures.SignatureTree._cache) > _MAX_SIGNATURES:
        _signatures.SignatureTree._cache.clear()


class Address(NamedTuple):
    """One way to reach a bus."""

    transport: str
    options: dict[str, str]


def parse_address(address: str) -> list[Address]:
    """The ways to reach a bus, in the order in which they are to be tried.

    Raises:
        ValueError: the text is not a D-Bus address.
    """
    try:
        return [Address(*pair) for pair in _modules["_private.address"].parse_address(address)]
    except Exception as error:
        raise ValueError(f"'{address}' is not a D-Bus address: {error}") from error


def system_bus_address() -> str:
    """Where the system bus is: ``DBUS_SYSTEM_BUS_ADDRESS``, or the standard socket."""
    return os.environ.get("DBUS_SYSTEM_BUS_ADDRESS") or "unix:path=/run/dbus/system_bus_socket"


def session_bus_address() -> str:
    """Where the session bus is: ``DBUS_SESSION_BUS_ADDRESS``, or the user's runtime directory.

    Raises:
        ValueError: there is no session bus.
    """
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS")
    if address:
        return address
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    socket_path = os.path.join(runtime, "bus")
    if os.path.exists(socket_path):
        return "unix:path=" + "".join(
            chr(byte) if byte in _PLAIN_IN_ADDRESS else f"%{byte:02x}" for byte in os.fsencode(socket_path)
        )
    raise ValueError(
        f"there is no session bus: DBUS_SESSION_BUS_ADDRESS is not set and {socket_path} does not exist; "
        "start the program with dbus-run-session, or set the variable"
    )


class Authentication:
    """The client's side of the EXTERNAL exchange, with passing of descriptors."""

    def __init__(self) -> None:
        self._exchange: Any = _modules["auth"].AuthExternal()

    def first(self) -> bytes:
        """What is sent first, without the leading NUL."""
        return self._line(self._exchange._authentication_start(negotiate_unix_fd=True))

    def next(self, line: bytes) -> tuple[bytes, bool]:
        """The answer to a line of the server's (without its CR LF), and whether it ends the exchange.

        Raises:
            ValueError: the server refuses.
        """
        try:
            answer = self._exchange._receive_line(line.decode("ascii"))
        except Exception as error:
            raise ValueError(str(error)) from error
        return self._line(answer), answer == "BEGIN"

    @staticmethod
    def _line(text: str) -> bytes:
        return text.encode("ascii") + b"\r\n"
