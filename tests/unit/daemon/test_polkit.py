"""What callers may do, by what a made-up polkit answers, or does not."""

# ruff: noqa: ARG002, ASYNC109 - what is made up has the arguments of what it stands for

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from kheadersd.daemon.polkit import Authority
from kheadersd.dbus.credentials import Credentials
from kheadersd.dbus.errors import BusError
from kheadersd.dbus.objects import Answer, Call
from kheadersd.errors import (
    FREEDESKTOP_ERRORS,
    AccessDenied,
    InteractiveAuthorizationRequired,
    KheadersError,
    LimitsExceeded,
    Timeout,
)
from kheadersd.headers.consent import Action
from kheadersd.names import BUS_NAME

ALLOWED, NOT_NOW, NEVER = (True, False), (False, True), (False, False)
USER = 1000
NO_POLKIT = BusError(FREEDESKTOP_ERRORS + "ServiceUnknown", "no such service", BUS_NAME)
LOST = BusError(FREEDESKTOP_ERRORS + "NoReply", "it went", BUS_NAME)

Result = tuple[bool, bool] | KheadersError | Awaitable[tuple[bool, bool]]


class Polkit:
    """A `Peer` on which polkit answers, in turn, what it is told to."""

    def __init__(self, *results: Result, uid: int = USER) -> None:
        self.results = list(results)
        self.uid = uid
        self.questions: list[Sequence[Any]] = []
        self.cancelled: list[str] = []

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        values: Sequence[Any] = (),
        *,
        timeout: float = 25.0,
    ) -> Answer:
        if member == "CancelCheckAuthorization":
            self.cancelled += values
            return Answer([], ())
        self.questions.append(values)
        result = self.results.pop(0)
        if isinstance(result, KheadersError):
            raise result
        if isinstance(result, Awaitable):
            result = await result
        return Answer([[*result, {}]], ())

    portion = 0

    async def credentials(self, sender: str) -> Credentials:
        return Credentials(self.uid, 1)

    def known_user(self, sender: str) -> int | None:
        return self.uid

    def caller(self, sender: str = ":1.1", *, interactive: bool = False) -> Call:
        return Call(sender, "/", "", "GetHeaders", (), allow_interactive=interactive, connection=self)


def may(polkit: Polkit, action: Action = Action.MANAGE, **caller: Any) -> Awaitable[None]:
    return Authority().require(polkit.caller(**caller), action)


async def test_root_is_not_asked_about() -> None:
    await may(Polkit(uid=0))


async def test_nor_is_the_owner_of_a_session_bus() -> None:
    await Authority(trusted_uid=USER).require(Polkit().caller(), Action.MANAGE)
    with pytest.raises(AccessDenied, match="only root may export"):
        await Authority().require_root(Polkit().caller(), "export")


async def test_polkit_decides() -> None:
    await may(Polkit(ALLOWED))
    with pytest.raises(AccessDenied, match="you may not manage the cache of kernel headers"):
        await may(Polkit(NEVER))


async def test_who_could_authenticate_is_told_so_unless_asked_already() -> None:
    with pytest.raises(InteractiveAuthorizationRequired, match="you must authenticate"):
        await may(Polkit(NOT_NOW))
    with pytest.raises(AccessDenied):
        await may(Polkit(NOT_NOW), interactive=True)


@pytest.mark.parametrize("interactive", [False, True])
async def test_a_password_is_asked_for_only_where_the_message_allows_it(interactive: bool) -> None:
    polkit = Polkit(ALLOWED)
    await may(polkit, interactive=interactive)
    subject, action, _, flags, _ = polkit.questions[0]
    assert subject[0] == "system-bus-name"
    assert subject[1]["name"].value == ":1.1"
    assert (action, flags) == ("org.kheaders.provide.manage", int(interactive))


async def test_what_is_only_wondered_about_asks_for_no_password() -> None:
    polkit = Polkit(NOT_NOW, ALLOWED)
    assert not await Authority().allows(polkit.caller(interactive=True), Action.DOWNLOAD)
    assert polkit.questions[0][3] == 0
    assert await Authority().allows(polkit.caller(), Action.DOWNLOAD)


async def test_without_polkit_the_policy_s_defaults_hold() -> None:
    await may(Polkit(NO_POLKIT), Action.EXTRACT)
    for action in (Action.DOWNLOAD, Action.MANAGE):
        with pytest.raises(AccessDenied, match="as no polkit runs"):
            await may(Polkit(NO_POLKIT), action)


async def test_root_of_another_container_is_told_why_it_is_refused() -> None:
    """It is root: "only root may" would tell it nothing."""
    polkit = Polkit()
    with pytest.raises(AccessDenied, match=r"own container may .* as containers share this bus"):
        await Authority(asks_polkit=False).require(polkit.caller(), Action.MANAGE)
    assert polkit.questions == []


async def test_only_the_bus_says_that_there_is_no_polkit() -> None:
    with pytest.raises(AccessDenied, match="polkit could not be asked"):
        await may(Polkit(BusError(NO_POLKIT.name, "no such service", ":1.5")), Action.EXTRACT)


async def test_a_polkit_that_is_restarted_is_asked_once_more() -> None:
    await may(Polkit(LOST, ALLOWED))
    with pytest.raises(AccessDenied, match="polkit could not be asked"):
        await may(Polkit(LOST, LOST, ALLOWED))


async def test_a_question_without_an_answer_is_taken_back() -> None:
    polkit = Polkit(Timeout("polkit did not answer"))
    with pytest.raises(AccessDenied, match="polkit did not answer"):
        await may(polkit)
    await asyncio.sleep(0)
    assert polkit.cancelled == [polkit.questions[0][4]]


async def test_the_same_is_asked_once(later: Callable[[], asyncio.Future[tuple[bool, bool]]]) -> None:
    polkit, authority = Polkit(answer := later()), Authority()
    asking = [asyncio.create_task(authority.require(polkit.caller(), Action.MANAGE)) for _ in range(3)]
    await asyncio.sleep(0)
    answer.set_result(ALLOWED)
    await asyncio.gather(*asking)
    assert len(polkit.questions) == 1


async def test_one_user_s_open_questions_are_few(
    later: Callable[[], asyncio.Future[tuple[bool, bool]]],
) -> None:
    answers = [later() for _ in range(17)]
    polkit, authority = Polkit(*answers), Authority()

    def ask(number: int) -> asyncio.Task[None]:
        return asyncio.create_task(authority.require(polkit.caller(f":1.{number}"), Action.MANAGE))

    asking = [ask(number) for number in range(16)]
    await asyncio.sleep(0)
    with pytest.raises(LimitsExceeded, match="16 questions about user 1000"):
        await ask(16)
    answers[0].set_result(ALLOWED)
    await asking[0]
    asking.append(ask(17))
    for answer in answers[1:]:
        answer.set_result(ALLOWED)
    await asyncio.gather(*asking)


@pytest.fixture
def later() -> Callable[[], asyncio.Future[tuple[bool, bool]]]:
    """Makes answers that are given later."""
    return lambda: asyncio.get_running_loop().create_future()


async def test_polkit_is_not_asked_where_containers_share_the_bus() -> None:
    """It takes uid 0 of any of them for root."""
    polkit = Polkit(ALLOWED)
    authority = Authority(without_polkit=("extract", "download"), asks_polkit=False)
    for action in (Action.EXTRACT, Action.DOWNLOAD):
        await authority.require(polkit.caller(), action)
    with pytest.raises(AccessDenied):
        await authority.require(polkit.caller(), Action.MANAGE)
    assert polkit.questions == []
