"""What an ordinary user may do, by the real polkit and the real bus."""

from __future__ import annotations

import pytest

from tests.vm.guest import Guest
from tests.vm.image import USER
from tests.vm.service import CACHE, UNIT, call, forget, get_headers, property_of, refusal

_REFUSED = (
    "org.freedesktop.DBus.Error.AccessDenied",
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
)


def test_reading(guest: Guest) -> None:
    path, details = call(guest, "Lookup", "s", "", user=USER)
    assert details["source"] == "module-file"
    assert guest.check(["head", "-c", "9", f"{path}/include/generated/autoconf.h"], user=USER)
    assert len(call(guest, "ListEntries", user=USER)[0]) == 1
    assert call(guest, "ListLeases", user=USER) == [[]]
    assert call(guest, "Describe", user=USER)
    assert call(guest, "Verify", "sa{sv}", "", "0", user=USER) == [True, []]
    assert get_headers(guest, user=USER)[0] == path


def test_extracting_and_loading_the_module(guest: Guest) -> None:
    """The user may not load it, the daemon may not load it; that unit may, for the daemon."""
    forget(guest)
    _, details = get_headers(guest, "module", user=USER)
    assert details["fresh"]
    assert guest.run("/sbin/modprobe kheaders", user=USER).status != 0
    assert guest.run("systemctl start kheaders-module.service", user=USER).status != 0


@pytest.mark.parametrize(
    ("member", "arguments"),
    [
        ("Remove", ("", "@a{sv} {}")),
        ("Prune", ("@a{sv} {}",)),
        ("UnloadModule", ("@a{sv} {}",)),
        ("GetHeaders", ("", "{'refresh': <true>}")),
        ("GetHeaders", ("", "{'sources': <['package']>}")),
    ],
    ids=["Remove", "Prune", "UnloadModule", "refresh", "package"],
)
def test_refused(guest: Guest, member: str, arguments: tuple[str, ...]) -> None:
    name, message = refusal(guest, member, *arguments, user=USER)
    assert name in _REFUSED, message
    # It was polkit who said no, and not that it could not be asked.
    said = guest.check(f"journalctl --unit={UNIT} --boot --output=cat --no-pager")
    assert "polkit could not be asked" not in said
    assert property_of(guest, "EntryCount") == 1
    assert guest.check("systemctl --failed --no-legend") == ""


def test_the_log_level_is_roots(guest: Guest) -> None:
    set_level = "systemctl service-log-level kheadersd.service debug"
    assert guest.run(set_level, user=USER).status != 0
    assert guest.check("systemctl service-log-level kheadersd.service") == "info"


def test_a_rule_of_the_administrator(guest: Guest) -> None:
    guest.write(
        "/etc/polkit-1/rules.d/10-somebody.rules",
        f"""polkit.addRule(function (action, subject) {{
            if (action.id == "org.kheaders.provide.manage" && subject.user == "{USER}")
                return polkit.Result.YES;
            if (action.id == "org.kheaders.provide.extract" && subject.user == "nobody")
                return polkit.Result.NO;
        }});""",
    )
    guest.check("systemctl restart polkit")
    (freed,) = call(guest, "Remove", "sa{sv}", "", "0", user=USER)
    assert freed > 1_000_000
    assert refusal(guest, "GetHeaders", "", "@a{sv} {}", user="nobody")[0] in _REFUSED
    assert get_headers(guest, user=USER)[1]["fresh"]


def test_the_cache_is_the_daemons(guest: Guest) -> None:
    path = call(guest, "Lookup", "s", "", user=USER)[0]
    for place in (CACHE, path, f"{path}/include", f"{path}/include/linux"):
        assert guest.run(f"touch {place}/mine", user=USER).status != 0, place
    assert guest.check(f"find {CACHE} -perm /022 ! -type l") == ""
    assert guest.check(f"find {CACHE} ! -user kheadersd") == ""


def test_the_command(guest: Guest) -> None:
    path = guest.check("kheadersctl get", user=USER)
    assert guest.run(f"test -d {path}/include/linux", user=USER).status == 0
    assert guest.run("kheadersctl remove $(uname -r)", user=USER).status == 4
    assert guest.run("kheadersctl get 1.2.3-none", user=USER).status in (3, 4)
    exec_done = guest.check("kheadersctl exec -- printenv BPFTRACE_KERNEL_SOURCE", user=USER)
    assert exec_done == path
