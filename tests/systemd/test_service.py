"""The daemon as a system service: its sandbox, its life, and what it may ask of the service manager."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.container import Container
from tests.support.kheaders import RealHeaders
from tests.support.running import INTERFACE, NAME, OBJECT
from tests.systemd.conftest import RELEASE

pytestmark = pytest.mark.slow

_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")

Configure = Callable[[str, str], None]


def call(machine: Container, member: str, *arguments: str, user: str | None = None) -> Any:
    answer = machine.do(
        *("busctl", "--json=short", "--timeout=100", "call", NAME, OBJECT, INTERFACE, member, *arguments),
        user=user,
        timeout=110,
    )
    return json.loads(answer)["data"]


def main_pid(machine: Container) -> str:
    return machine.unit("kheadersd.service", "MainPID")


@pytest.mark.parametrize("user", [None, "nobody"])
def test_every_user_is_served(machine: Container, real_headers: RealHeaders, user: str | None) -> None:
    path, details = call(machine, "GetHeaders", "sa{sv}", "", "0", user=user)
    assert path.startswith(f"/var/cache/kheaders/{real_headers.release}-")
    assert details["source"]["data"] == "module-file"
    assert machine.do("test", "-r", f"{path}/include/linux/kconfig.h", user="nobody") == ""


def test_it_has_no_privilege(machine: Container) -> None:
    call(machine, "ListEntries")
    status = machine.do("cat", f"/proc/{main_pid(machine)}/status")
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert fields["Uid"].split()[0] == machine.do("id", "-u", "kheadersd") != "0"
    assert int(fields["VmRSS"].split()[0]) < 45 * 1024  # KiB; the bound itself is measured elsewhere


def test_the_bus_starts_it(machine: Container) -> None:
    machine.do("systemctl", "stop", "kheadersd.service")
    assert call(machine, "ListEntries", user="nobody")
    machine.wait_for("systemctl is-active kheadersd.service")


def test_a_crash(machine: Container, configure: Configure) -> None:
    call(machine, "ListEntries")
    before = main_pid(machine)
    machine.do("systemctl", "kill", "--signal=SEGV", "kheadersd.service")
    machine.wait_for(f'set -- $(systemctl show -P MainPID kheadersd); [ "$1" != {before} ] && [ "$1" != 0 ]')
    assert call(machine, "ListEntries")


def test_the_cache_is_removed(machine: Container) -> None:
    """With its directory, which is a mount of the sandbox: only the service manager makes that again."""
    call(machine, "GetHeaders", "sa{sv}", "", "0")
    machine.do("rm", "-rf", "/var/cache/kheaders")
    refused = machine.run("kheadersctl", "get")
    assert refused.returncode == 1
    assert "ask again" in refused.stderr
    machine.wait_for("kheadersctl get")
    path, _ = call(machine, "GetHeaders", "sa{sv}", "", "0")
    assert machine.do("stat", "-c", "%a %U", "/var/cache/kheaders") == "755 kheadersd"
    assert machine.do("test", "-r", f"{path}/include/linux/kconfig.h", user="nobody") == ""


def test_the_watchdog(machine: Container, configure: Configure) -> None:
    configure("kheadersd.service", "[Service]\nWatchdogSec=2s\n")
    machine.do("systemctl", "restart", "kheadersd.service")
    before = main_pid(machine)
    machine.run("sleep", "4")
    assert main_pid(machine) == before, machine.journal("-u", "kheadersd")
    machine.do("systemctl", "kill", "--signal=STOP", "kheadersd.service")
    machine.wait_for(f'set -- $(systemctl show -P MainPID kheadersd); [ "$1" != {before} ] && [ "$1" != 0 ]')
    assert call(machine, "ListEntries")
    assert "Watchdog timeout" in machine.journal("-u", "kheadersd")


def test_reloading(machine: Container) -> None:
    call(machine, "ListEntries")
    before = main_pid(machine)
    machine.write("/etc/kheadersd.conf.d/50-test.conf", "[Log]\nLevel=debug\n")
    machine.do("systemctl", "reload", "kheadersd.service")
    level = ("busctl", "get-property", NAME, "/org/freedesktop/LogControl1", "org.freedesktop.LogControl1")
    machine.wait_for(f"{' '.join(level)} LogLevel | grep -q debug")
    machine.do("rm", "/etc/kheadersd.conf.d/50-test.conf")
    machine.do("systemctl", "reload", "kheadersd.service")
    machine.wait_for(f"{' '.join(level)} LogLevel | grep -q info")
    assert main_pid(machine) == before


def test_the_log_level_by_systemctl(machine: Container) -> None:
    call(machine, "ListEntries")
    machine.do("systemctl", "service-log-level", "kheadersd", "debug")
    assert machine.do("systemctl", "service-log-level", "kheadersd") == "debug"
    machine.do("systemctl", "service-log-level", "kheadersd", "info")


def test_a_download_is_not_the_daemons(machine: Container) -> None:
    machine.do(
        *("systemd-run", "--quiet", "--unit=packages", "--working-directory=/srv/packages"),
        *("python3", "-m", "http.server", "--bind", "127.0.0.1", "8000"),
    )
    machine.wait_for("python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", 8000))'")
    path, details = call(machine, "GetHeaders", "sa{sv}", RELEASE, "1", "sources", "as", "1", "package")
    assert details["source"]["data"] == "package"
    assert machine.do("cat", f"{path}/include/linux/types.h") == "#define TYPES"
    assert "kheaders-fetch@" in machine.journal("-u", "kheaders-fetch@*")
    assert machine.do("sh", "-c", "ls -d /var/cache/kheaders/.packages/run-* || true") == ""
    machine.do("systemctl", "stop", "packages")


@pytest.mark.parametrize(
    ("user", "member", "unit", "allowed"),
    [
        ("kheadersd", "StartUnit", "kheaders-module.service", True),
        ("kheadersd", "StopUnit", "kheaders-module.service", True),
        ("kheadersd", "StartUnit", "kheaders-module-unload.service", True),
        ("kheadersd", "StartUnit", "kheaders-push.service", True),
        ("kheadersd", "StopUnit", "kheaders-push.service", False),
        ("kheadersd", "RestartUnit", "kheaders-module.service", False),
        ("kheadersd", "StopUnit", "kheadersd.service", False),
        ("kheadersd", "StartUnit", "kheaders-prune.service", False),
        ("nobody", "StartUnit", "kheaders-module.service", False),
        ("nobody", "StopUnit", "kheaders-module.service", False),
    ],
)
def test_what_the_service_manager_is_asked(
    machine: Container, user: str, member: str, unit: str, allowed: bool
) -> None:
    done = machine.run("busctl", "call", *_MANAGER, member, "ss", unit, "replace", user=user)
    assert (done.returncode == 0) == allowed, done.stderr


def test_a_module_that_cannot_be_loaded_is_no_failure_of_the_machine(
    machine: Container, configure: Configure
) -> None:
    configure("kheaders-module.service", "[Unit]\nConditionCapability=\n")
    configure("kheaders-module-unload.service", "[Unit]\nConditionCapability=\n")
    for unit in ("kheaders-module.service", "kheaders-module-unload.service"):
        machine.run("systemctl", "start", unit)
        machine.wait_for(f'[ "$(systemctl is-active {unit})" != activating ]')
    assert "kheaders not found in directory" in machine.journal("-u", "kheaders-module.service")
    assert machine.do("systemctl", "--failed", "--no-legend") == ""


def test_the_unit_being_active_is_the_record(machine: Container, configure: Configure) -> None:
    configure("kheaders-module.service", "[Unit]\nConditionCapability=\n")
    configure("kheadersd.service", "[Service]\nExecStart=\nExecStart=/usr/bin/kheadersd\n")
    machine.do("systemctl", "restart", "kheadersd.service")
    # No kernel module here: modprobe does as it is told by its configuration.
    machine.write("/etc/modprobe.d/50-test.conf", "install kheaders /bin/true\nremove kheaders /bin/true\n")
    machine.do(
        "busctl", "call", *_MANAGER, "StartUnit", "ss", "kheaders-module.service", "replace", user="kheadersd"
    )
    machine.wait_for("systemctl is-active kheaders-module.service")
    machine.do("systemctl", "kill", "--signal=KILL", "kheadersd.service")
    # The successor finds what was left loaded, and gives it back.
    machine.wait_for("! systemctl is-active kheaders-module.service")
    machine.do("rm", "/etc/modprobe.d/50-test.conf")
    assert machine.do("systemctl", "--failed", "--no-legend") == ""


def test_a_kernel_package_starts_it(machine: Container) -> None:
    for hook in ("/etc/kernel/postinst.d/kheadersd", "/etc/kernel/postrm.d/kheadersd"):
        machine.do("systemctl", "stop", "kheadersd.service")
        machine.do(hook, "1.2.3", "/boot/vmlinuz-1.2.3")
        machine.wait_for("systemctl is-active kheadersd.service")
    machine.do(
        "/usr/lib/kernel/install.d/85-kheadersd.install", "add", "1.2.3", "/boot/x", "/boot/vmlinuz-1.2.3"
    )


def test_a_kernel_package_does_not_need_it(machine: Container) -> None:
    """As when an image of a system is made, in which no service manager runs."""
    machine.do("systemctl", "stop", "kheadersd.service")
    hook = "mount -t tmpfs none /run; /etc/kernel/postinst.d/kheadersd 1"
    machine.do("unshare", "--mount", "sh", "-ec", hook)
    assert machine.unit("kheadersd.service", "ActiveState") == "inactive"


def test_retention(machine: Container) -> None:
    machine.do("systemctl", "start", "kheaders-prune.service")
    machine.wait_for('[ "$(systemctl show -P ActiveState kheaders-prune.service)" = inactive ]')
    assert machine.unit("kheaders-prune.service", "Result") == "success"


def test_the_journal_has_the_texts_of_the_catalog(machine: Container) -> None:
    call(machine, "ListEntries")
    entries = machine.do("journalctl", "--catalog", "--no-pager", "-u", "kheadersd")
    assert "The daemon is on the bus as org.kheaders.Provide" in entries


def test_nothing_has_failed(machine: Container) -> None:
    assert machine.do("systemctl", "--failed", "--no-legend") == ""


def test_metrics_where_the_manual_has_them(machine: Container) -> None:
    """Its sandbox lets the daemon write there, every user can read it, and it goes with the daemon."""
    configuration, path = "/etc/kheadersd.conf.d/metrics.conf", "/run/kheadersd/kheadersd.prom"
    machine.write(configuration, f"[Metrics]\nTextFile={path}\n")
    machine.do("systemctl", "restart", "kheadersd.service")
    machine.wait_for(f"test -e {path}")
    assert "kheadersd_cache_entries " in machine.do("cat", path, user="nobody")
    machine.do("rm", configuration)
    machine.do("systemctl", "stop", "kheadersd.service")
    machine.do("test", "!", "-e", "/run/kheadersd")
    machine.do("systemctl", "start", "kheadersd.service")
