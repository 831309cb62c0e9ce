# SPDX-License-Identifier: LGPL-2.1-or-later
"""The calls that take time: how many there may be, whose they are, their end when the caller goes."""

from __future__ import annotations

import asyncio
import collections
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import LimitsExceeded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

T = TypeVar("T")

PER_SENDER = 1024
PER_SENDER_UNHEARD = 16
PER_USER = 2048
IN_TOTAL = 8192
FOR_ROOT = 256
"""How many of `IN_TOTAL` only root can use."""
MANY_UNIDENTIFIED = 1024
PER_UNIDENTIFIED_SENDER = 16
"""The limit of a sender whose user is not known, once there are `MANY_UNIDENTIFIED` calls of such senders.

The 256 connections that a system bus allows a user then leave room for others within `IN_TOTAL`.
"""


class CallsInFlight:
    """The tasks of calls that could not be answered at once.

    A sender is one connection to the bus. Its user is known only once the bus was asked for its credentials;
    until then its calls wait. Root is exempt from the user's limit.
    """

    def __init__(self, identify: Callable[[str], Awaitable[int]]) -> None:
        """
        Args:
            identify: the user of a sender; raises KheadersError.
        """
        self._identify = identify
        self._of_sender: dict[str, set[asyncio.Task[Any]]] = {}
        self._of_user: collections.Counter[int] = collections.Counter()
        self._user: dict[asyncio.Task[Any], int] = {}
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
        if uid is None and self._total - len(self._user) >= MANY_UNIDENTIFIED:
            limit = min(limit, PER_UNIDENTIFIED_SENDER)
        if len(self._of_sender.get(sender, ())) >= limit:
            raise LimitsExceeded(f"{limit} calls of this connection are in progress; wait for some of them")
        # Who is not known yet may be root.
        self._check_user(uid or 0, self._total + 1)

    def start(self, sender: str, uid: int | None, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a call's work as a task, and count it.

        Where the user is not known, the task first waits for it, and fails where `check` then would.
        """
        loop = asyncio.get_running_loop()
        if uid is None:
            task = loop.create_task(self._once_known(sender, work))
            task.add_done_callback(lambda _: work.close())  # it may never have begun
        else:
            task = loop.create_task(work)
            self._count(task, uid)
        self._of_sender.setdefault(sender, set()).add(task)
        self._total += 1
        task.add_done_callback(lambda done: self._finished(sender, done))
        return task

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

    def _check_user(self, uid: int, total: int) -> None:
        if uid and self._of_user[uid] >= PER_USER:
            raise LimitsExceeded(f"{PER_USER} calls of user {uid} are in progress; wait for some of them")
        limit = IN_TOTAL - FOR_ROOT if uid else IN_TOTAL
        if total > limit:
            raise LimitsExceeded(f"{limit} calls are in progress; try again in a few seconds")

    async def _once_known(self, sender: str, work: Coroutine[Any, Any, T]) -> T:
        uid = await self._identify(sender)
        self._check_user(uid, self._total)
        task = asyncio.current_task()
        assert task is not None
        self._count(task, uid)
        return await work

    def _count(self, task: asyncio.Task[Any], uid: int) -> None:
        self._user[task] = uid
        self._of_user[uid] += 1

    def _finished(self, sender: str, task: asyncio.Task[Any]) -> None:
        calls = self._of_sender[sender]
        calls.discard(task)
        if not calls:
            del self._of_sender[sender]
        self._total -= 1
        uid = self._user.pop(task, None)
        if uid is not None:
            self._of_user[uid] -= 1
            if not self._of_user[uid]:
                del self._of_user[uid]
