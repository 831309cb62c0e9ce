# SPDX-License-Identifier: LGPL-2.1-or-later
"""The calls that take time: how many there may be, whose they are, their end when the caller goes."""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import LimitsExceeded

if TYPE_CHECKING:
    from collections.abc import Coroutine

T = TypeVar("T")

PER_SENDER = 1024
PER_SENDER_UNHEARD = 16
PER_USER = 2048
IN_TOTAL = 8192


class CallsInFlight:
    """The tasks of calls that could not be answered at once.

    A sender is one connection to the bus. Its user is known only once the bus was asked for its credentials;
    until then its calls count for the connection and in total. Root is exempt from the user's limit.
    """

    def __init__(self) -> None:
        self._of_sender: dict[str, set[asyncio.Task[Any]]] = {}
        self._of_user: collections.Counter[int] = collections.Counter()
        self._user: dict[str, int] = {}
        self._total = 0

    def __len__(self) -> int:
        return self._total

    def check(self, sender: str, uid: int | None, *, unheard: bool = False) -> None:
        """
        Args:
            uid: the sender's user, None if it is not known yet.
            unheard: the call wants no answer. A bus limits how many answers may be awaited, but not how
                many such calls are sent.

        Raises:
            LimitsExceeded: the sender, its user or all callers together have too many calls in flight.
        """
        limit = PER_SENDER_UNHEARD if unheard else PER_SENDER
        if len(self._of_sender.get(sender, ())) >= limit:
            raise LimitsExceeded(f"{limit} calls of this connection are in progress; wait for some of them")
        if uid and self._of_user[uid] >= PER_USER:
            raise LimitsExceeded(f"{PER_USER} calls of user {uid} are in progress; wait for some of them")
        if self._total >= IN_TOTAL:
            raise LimitsExceeded(f"{IN_TOTAL} calls are in progress; try again in a few seconds")

    def start(self, sender: str, uid: int | None, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a call's work as a task, and count it."""
        task = asyncio.get_running_loop().create_task(work)
        self._of_sender.setdefault(sender, set()).add(task)
        self._total += 1
        if sender in self._user:
            self._of_user[self._user[sender]] += 1
        elif uid is not None:
            self.identify(sender, uid)
        task.add_done_callback(lambda done: self._finished(sender, done))
        return task

    def identify(self, sender: str, uid: int) -> None:
        """The sender's user has become known: count its calls in flight."""
        if sender in self._of_sender and sender not in self._user:
            self._user[sender] = uid
            self._of_user[uid] += len(self._of_sender[sender])

    def cancel(self, sender: str) -> None:
        """Cancel the sender's calls: it has left the bus, and the answers are of no use."""
        for task in self._of_sender.get(sender, ()):
            task.cancel()

    def cancel_all(self) -> None:
        """Cancel all calls."""
        for sender in self._of_sender:
            self.cancel(sender)

    async def stop(self) -> None:
        """Cancel all calls, and wait until they have ended."""
        while tasks := [task for calls in self._of_sender.values() for task in calls]:
            self.cancel_all()
            await asyncio.wait(tasks)
            await asyncio.sleep(0)  # lets the callbacks run that take them out

    def _finished(self, sender: str, task: asyncio.Task[Any]) -> None:
        calls = self._of_sender[sender]
        calls.discard(task)
        self._total -= 1
        uid = self._user.get(sender)
        if uid is not None:
            self._of_user[uid] -= 1
            if not self._of_user[uid]:
                del self._of_user[uid]
        if not calls:
            del self._of_sender[sender]
            self._user.pop(sender, None)
