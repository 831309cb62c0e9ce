"""What the system is like without the project again."""

from __future__ import annotations

from tests.vm.guest import Guest
from tests.vm.service import BUILD, CACHE, CALL_LIMIT, UNIT
from tests.vm.snapshot import APT
from tests.vm.suites import everywhere


@everywhere
def test_uninstalled_while_its_headers_are_mounted(guest: Guest) -> None:
    guest.check(f"ls {BUILD}/include/linux/kconfig.h && findmnt --mountpoint {BUILD}", timeout=CALL_LIMIT)
    guest.check(f"{APT} purge kheadersd", timeout=CALL_LIMIT)
    assert guest.run(f"findmnt -n {BUILD}").output == ""
    for path in ("/lib/modules/$(uname -r)/build", CACHE, "/run/kheaders", f"/lib/systemd/system/{UNIT}"):
        guest.check(f"! test -e {path} && ! test -L {path}")
    guest.check("! getent passwd kheadersd && ! command -v kheadersctl")
    assert guest.check("systemctl list-units --all --no-legend 'kheaders*' 'run-kheaders*'") == ""
    assert guest.check("systemctl is-system-running") == "running"
