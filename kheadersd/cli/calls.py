# SPDX-License-Identifier: LGPL-2.1-or-later
"""How commands call the service: with options of the command line, and with progress on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol

from ..names import SERVICE, SERVICE_PATH
from . import output

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    Options = dict[str, tuple[str, Any]]

MAX_SECONDS = 3600.0
"""Only for a daemon that hangs: extraction, download and compilation have shorter limits in the daemon."""

# For each option of the command line, the option of the method and its signature.
_OPTIONS = {
    "source": ("sources", "as"),
    "refresh": ("refresh", "b"),
    "compiler": ("compiler", "s"),
    "header": ("headers", "as"),
    "force": ("force", "b"),
}


class ServiceClient(Protocol):
    """What `Client` and `BlockingClient` have in common."""

    async def call(self, member: str, signature: str = "", *values: Any) -> list[Any]:
        """As `Client.call`."""

    async def properties(self) -> dict[str, Any]:
        """As `Client.properties`."""

    async def watch(self, listener: Callable[[str, list[Any]], None], *members: str) -> None:
        """As `Client.watch`."""


def is_interactive() -> bool:
    """Whether polkit may ask the user: on a terminal."""
    return sys.stdin is not None and sys.stdin.isatty()


def signals_of_service(member: str) -> str:
    """The bus's rule for one of the service's signals."""
    return f"type='signal',sender='{SERVICE}',path='{SERVICE_PATH}',member='{member}'"


async def request(client: ServiceClient, member: str, signature: str, *values: Any) -> list[Any]:
    """As `Client.call`, for a method that takes time: its progress is shown if stderr is a terminal.

    Raises:
        CommandError: the call failed.
    """
    line = output.ProgressLine()
    try:
        if line.wanted:
            await client.watch(lambda _, values: line.show(*values[:3]), "Progress")
        return await client.call(member, signature, *values)
    finally:
        line.clear()


def options(arguments: argparse.Namespace, *names: str) -> Options:
    """The options of a method, from those options of the command line that were given."""
    given = {}
    for name in names:
        if value := getattr(arguments, name):
            option, signature = _OPTIONS[name]
            given[option] = (signature, value)
    return given


async def headers(client: ServiceClient, arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """The path of the headers that a command names, and what the service says of them.

    Raises:
        CommandError: the call failed.
    """
    given = options(arguments, "source", "refresh")
    path, details = await request(client, "GetHeaders", "sa{sv}", arguments.release, given)
    tell_warnings(details)
    return path, details


def tell_warnings(details: dict[str, Any]) -> None:
    """Show the user what the service warns of; on stderr, as the output is for programs."""
    for warning in details.get("warnings", ()):
        output.complain(f"kheadersctl: warning: {warning}")
