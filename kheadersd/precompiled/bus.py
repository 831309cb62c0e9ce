# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is asked of the daemon within a tool."""

from __future__ import annotations

from .sd_bus import Bus, CannotAsk, ErrorReply, Method

TYPE_CHECKING = False  # typing takes longer to import than all of this
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_NAME, _PATH = "org.kheaders.Provide", "/org/kheaders/Provide"
_PROFILE = "bcc-base"  # its list is replaced, its way of compiling is what is meant
_SECONDS = 300.0  # the first time, a compiler runs


class Refused(Exception):
    """There is no precompiled header; its text says why, as the end of a sentence."""


class Precompiled:
    """What the daemon answers.

    Attributes:
        arguments: of libbcc, in this order.
        source_tree: the headers that it was made from.
        library, library_file: the libbcc that it was made for, see org.kheaders.Provide(5); "" if unknown.
    """

    __slots__ = ("arguments", "library", "library_file", "source_tree")

    def __init__(
        self, arguments: list[bytes], source_tree: str, library: str = "", library_file: str = ""
    ) -> None:
        self.arguments = arguments
        self.source_tree = source_tree
        self.library = library
        self.library_file = library_file


def get_pch(
    release: str,
    headers: Sequence[str],
    defines: Sequence[str],
    *,
    drop_restored: bool = False,
    session: bool = False,
) -> Precompiled:
    """Have exactly these headers precompiled for libbcc, or get what is there. Blocking.

    Args:
        release: "" for the running kernel's.
        defines: as in ``MAX_PID=32768``, which hold for the headers too.
        drop_restored: whether headers that were dropped, and come back for this, are dropped again.
        session: ask the session bus, for trials.

    Raises:
        Refused: the daemon cannot be asked, or has a reason.
    """
    options: dict[str, Any] = {"headers": ("as", headers)}
    if defines:
        options["defines"] = ("as", defines)
    if drop_restored:
        options["drop_restored"] = ("b", True)
    values = (release, _PROFILE, options)
    _, arguments, details = _call("GetPch", "ssa{sv}", values, session=session)
    names = ("source_tree", "library", "library_file")
    return Precompiled(
        [argument.encode() for argument in arguments], *(str(details.get(name, "")) for name in names)
    )


def get_headers(release: str, *, session: bool = False) -> str:
    """Have the headers extracted, or find them. Blocking; the arguments are those of `get_pch`.

    Returns:
        The path of the whole tree; "" where libbcc finds the headers by itself.

    Raises:
        Refused: as `get_pch`.
    """
    path, details = _call("GetHeaders", "sa{sv}", (release, {}), session=session)
    return path if details.get("build_tree") == details.get("source_tree") else ""


def _call(member: str, signature: str, values: tuple[Any, ...], *, session: bool) -> list[Any]:
    """Call a method of the daemon, once, and close the connection."""
    try:
        bus = Bus(session=session)
        try:
            return bus.call(Method(_NAME, _PATH, _NAME, member), signature, values, seconds=_SECONDS)
        finally:
            bus.close()
    except CannotAsk as error:
        raise Refused(f"the bus cannot be asked: {error}") from None
    except ErrorReply as error:
        raise Refused(str(error)) from None
