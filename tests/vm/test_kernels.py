"""Kernels that do not take modules, and kernels that come and go."""

from __future__ import annotations

import pytest

from tests.vm.figures import Figures
from tests.vm.guest import Guest
from tests.vm.image import Image
from tests.vm.second_kernel import KernelPackage, second_kernel
from tests.vm.service import (
    BUILD,
    CACHE,
    call,
    forget,
    get_headers,
    main_pid,
    module_is_loaded,
    property_of,
    refusal,
)

_CHANGE_LIMIT = 240.0  # seconds for dpkg and what it brings about, in an emulated machine


def test_modules_disabled(guest: Guest) -> None:
    forget(guest)
    guest.check("sysctl -q -w kernel.modules_disabled=1")
    assert guest.run("modprobe kheaders").status != 0
    _, details = get_headers(guest)
    assert details["source"] == "module-file"
    assert details["fresh"]


def test_modules_disabled_is_said(guest: Guest) -> None:
    forget(guest)
    guest.check("sysctl -q -w kernel.modules_disabled=1")
    name, message = refusal(guest, "GetHeaders", "", "{'sources': <['module']>}")
    assert name in ("NotAvailable", "ModuleFailed"), message
    assert not module_is_loaded(guest)
    assert guest.check("systemctl is-system-running") == "running"


def test_modules_disabled_when_it_is_loaded(guest: Guest) -> None:
    """It can be read, and must stay; that is no failure of the request."""
    forget(guest)
    guest.check("modprobe kheaders && sysctl -q -w kernel.modules_disabled=1")
    assert get_headers(guest, "module")[1]["fresh"]
    assert module_is_loaded(guest)
    assert refusal(guest, "UnloadModule", "@a{sv} {}")[0] == "ModuleFailed"


def test_the_distribution_deletes_the_running_kernel(guest: Guest) -> None:
    """As an upgrade does; what was extracted at boot is served on."""
    path, _ = get_headers(guest)
    guest.check("rm -rf /lib/modules/$(uname -r)")
    guest.check("sleep 8")  # longer than the daemon waits for the end of such changes
    assert get_headers(guest)[0] == path
    guest.check(f"systemctl restart kheadersd.service && test -d {path}")
    assert get_headers(guest)[0] == path


@pytest.fixture(scope="session")
def package(image: Image) -> KernelPackage:
    """A second kernel, not installed."""
    return second_kernel(image.suite, image.release)


@pytest.fixture
def delivered(guest: Guest, package: KernelPackage) -> Guest:
    """The guest with the package's file in /root."""
    guest.write("/root/kernel.deb", package.file.read_bytes())
    return guest


def test_installed_extracted_ahead_removed_retired(
    delivered: Guest, package: KernelPackage, figures: Figures
) -> None:
    release = package.release
    # No caller waits for it: it must not delay what a caller waits for.
    low = f"ps -L -o ni= -p {main_pid(delivered)} | grep -q 15"
    delivered.check(f"( until {low}; do sleep 0.1; done; : >/tmp/low ) </dev/null >/dev/null 2>&1 &")
    delivered.check("dpkg -i /root/kernel.deb", timeout=_CHANGE_LIMIT)
    ahead = delivered.wait_for(f"ls -d {CACHE}/{release}-*/tree", timeout=_CHANGE_LIMIT)
    figures.add("second kernel's headers are there after its installation", ahead, "s")
    path, details = call(delivered, "Lookup", "s", release)
    assert details["source"] == "module-file"
    delivered.check("test -e /tmp/low")
    assert release in delivered.check(f"cat {path}/include/generated/utsrelease.h")
    assert property_of(delivered, "EntryCount") == 2
    assert not module_is_loaded(delivered)

    delivered.check(f"dpkg --purge {package.name}", timeout=_CHANGE_LIMIT)
    retired = delivered.wait_for(f"! ls -d {CACHE}/{release}-*", timeout=_CHANGE_LIMIT)
    figures.add("removed kernel's headers are gone after its removal", retired, "s")
    assert property_of(delivered, "EntryCount") == 1
    assert call(delivered, "Lookup", "s", "")[1]["source"] == "module-file"


def test_a_reboot_into_a_kernel_installed_while_the_daemon_was_stopped(
    delivered: Guest, package: KernelPackage
) -> None:
    """Its headers are there before its first boot, and the tools find them, not the old kernel's."""
    old, new = delivered.check("uname -r"), package.release
    delivered.check("systemctl stop kheadersd.service")
    delivered.check("dpkg -i /root/kernel.deb", timeout=_CHANGE_LIMIT)
    delivered.wait_for(f"ls -d {CACHE}/{new}-*/tree", timeout=_CHANGE_LIMIT)
    path, ahead = call(delivered, "Lookup", "s", new)
    delivered.power_off()
    delivered.machine.kernel, delivered.machine.initrd = package.kernel, package.initrd
    delivered.boot()
    assert delivered.check("uname -r") == new
    assert delivered.check("systemctl is-system-running") == "running"
    found, details = call(delivered, "Lookup", "s", "")
    assert found == path
    assert details["extracted_at"] == ahead["extracted_at"]
    assert new in delivered.check(f"cat {BUILD}/include/generated/utsrelease.h", timeout=_CHANGE_LIMIT)
    delivered.wait_for(f'[ "$(readlink /lib/modules/{new}/build)" = {BUILD} ]')
    delivered.check(f"! test -L /lib/modules/{old}/build")
    assert call(delivered, "Lookup", "s", old)[1]["source"] == "module-file"


def test_without_the_hooks_of_packages_it_is_noticed(delivered: Guest, package: KernelPackage) -> None:
    """Only files come and go, as with kernels that are copied or unpacked."""
    release = package.release
    unpacked = f"find /root/unpacked -type d -path '*/lib/modules/{release}'"
    copied = f"dpkg -x /root/kernel.deb /root/unpacked && cp -r $({unpacked}) /lib/modules"
    delivered.check(f"{copied} && depmod {release}", timeout=_CHANGE_LIMIT)
    delivered.wait_for(f"ls -d {CACHE}/{release}-*/tree", timeout=_CHANGE_LIMIT)
    delivered.check(f"rm -rf /lib/modules/{release}")
    delivered.wait_for(f"! ls -d {CACHE}/{release}-*", timeout=_CHANGE_LIMIT)
