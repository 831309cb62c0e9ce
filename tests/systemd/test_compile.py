"""Compilers in kheaders-compile@.service: what they can do there, and that it is enough."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kheadersd.system.priority import IDLE_NICE
from tests.support.archives import make_kheaders
from tests.support.container import COMPILER, Container, running
from tests.support.package import package
from tests.support.served_host import ServedHost
from tests.support.small_headers import FILES, RELEASE

pytestmark = pytest.mark.slow

# Run as the daemon's user: one command, as the daemon has it run.
_CALL = """
import asyncio, dataclasses, json, os, sys
from kheadersd.sandbox.limits import exceeded_limit
from kheadersd.sandbox.runners import COMPILE_ENVIRONMENT, compiler_runner
from kheadersd.sandbox.command import Command
from kheadersd.sandbox.unit_client import UnitClient
from kheadersd.errors import KheadersError

async def main(words, stdin, out, seconds, idle):
    run = compiler_runner()
    assert isinstance(run, UnitClient), run
    stdout = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644) if out else None
    try:
        command = Command(
            words, COMPILE_ENVIRONMENT, seconds, stdin=stdin.encode(), stdout=stdout, idle=idle
        )
        done = await run(command)
    except KheadersError as error:
        return {"error": error.message}
    return {**dataclasses.asdict(done), "limit": exceeded_limit(done)}

print(json.dumps(asyncio.run(main(*json.loads(sys.argv[1])))))
"""

# How libbcc compiles, asked as the daemon asks it.
_ASK = """
import asyncio, pathlib, sys
from kheadersd.host.architecture import of_machine
from kheadersd.pch.libbcc_command import LibbccCommands
from kheadersd.sandbox.runners import compiler_runner
from kheadersd.sandbox.unit_client import UnitClient
tree, machine = sys.argv[1:]
run = compiler_runner()
assert isinstance(run, UnitClient), run
command = asyncio.run(LibbccCommands(run).ask((), pathlib.Path(tree), of_machine(machine)))
print(command.major, *command.options)
"""

_CACHE = "/var/cache/kheaders"
_COMPILER = "/usr/bin/clang"


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """One with the project, its distribution's clang, and a header in the cache."""
    made = tmp_path_factory.mktemp("made")
    ServedHost(_made_directory(made / "host")).show(make_kheaders(RELEASE, FILES))
    with running("compile", tmp_path_factory.mktemp("machine"), {"/srv/made": made}, COMPILER) as container:
        container.install(package())
        container.do("systemctl", "start", "kheaders-compile.socket")
        container.do("install", "-d", "-o", "kheadersd", "-m", "755", _CACHE, f"{_CACHE}/tree")
        container.write(f"{_CACHE}/tree/some.h", "struct some { int thing; };\n")
        container.do("chmod", "-R", "a+rX", _CACHE)
        yield container


def _made_directory(path: Path) -> Path:
    path.mkdir()
    return path


def call(
    machine: Container,
    *command: str,
    stdin: str = "",
    out: str = "",
    seconds: float = 60,
    user: str = "kheadersd",
    idle: bool = False,
) -> Any:
    arguments = json.dumps([command, stdin, out, seconds, idle])
    return json.loads(machine.do("python3", "-c", _CALL, arguments, user=user, timeout=100))


def shell(machine: Container, script: str, **more: Any) -> Any:
    return call(machine, "/bin/sh", "-c", script, **more)


def test_a_pch(machine: Container) -> None:
    pch = f"{_CACHE}/headers.pch"
    source = f'#include "{_CACHE}/tree/some.h"\n#include <stddef.h>\n'
    flags = ["--target=bpf", "-O2", "-g"]
    made = call(machine, _COMPILER, *flags, "-x", "c-header", "-", "-o", "-", stdin=source, out=pch)
    assert made == {"status": 0, "stdout": "", "stderr": "", "limit": ""}
    use = ["-include-pch", pch, "-x", "c", "-", "-S", "-o", "-"]
    used = call(machine, _COMPILER, *flags, *use, stdin="size_t x = sizeof(struct some);\n")
    assert used["status"] == 0, used
    assert ".quad\t4" in used["stdout"]
    assert machine.do("systemctl", "--failed", "--no-legend") == ""


def test_a_low_priority(machine: Container) -> None:
    assert shell(machine, "nice", idle=True)["stdout"] == f"{IDLE_NICE}\n"


def test_the_whole_service(machine: Container) -> None:
    """Of another host's small archive: any user asks, the unit makes it, every user can read it."""
    machine.do("cp", "-r", "/srv/made/host", "/srv/host")
    drop_in = "[Service]\nExecStart=\nExecStart=/usr/bin/kheadersd --root /srv/host\n"
    machine.write("/run/systemd/system/kheadersd.service.d/host.conf", drop_in)
    machine.do("systemctl", "daemon-reload")
    machine.do("systemctl", "restart", "kheadersd.service")
    own = ["GetPch", "ssa{sv}", "", "bpf-core", "2", "headers", "as", "1", "linux/types.h"]
    words = ["busctl", "--json=short", "--timeout=100", "call", "org.kheaders.Provide"]
    words += ["/org/kheaders/Provide", "org.kheaders.Provide", *own, "compiler", "s", _COMPILER]
    answer = json.loads(machine.do(*words, timeout=110))
    path, arguments, _ = answer["data"]
    program = "#include <linux/types.h>\nu64 x;\n"
    use = [_COMPILER, *arguments, "-x", "c", "-S", "-o", "-", "-"]
    script = 'printf "%s" "$1" | { shift; "$@"; }'
    assert ".quad" in machine.do("sh", "-c", script, "sh", program, *use, user="nobody")
    assert machine.do("stat", "-c", "%U", path) == "kheadersd"
    machine.wait_for("! systemctl list-units --no-legend 'kheaders-compile@*' | grep -q .")
    assert "kheaders-compile@" in machine.journal("-u", "kheaders-compile@*")
    # What the configuration names is made without a caller, by the same units.
    machine.write("/etc/kheadersd.conf.d/ahead.conf", "[Ahead]\nProfiles=bpf-core\n")
    machine.do("systemctl", "reload", "kheadersd.service")
    said = "All 1 precompiled headers of \\[Ahead\\] are made"
    machine.wait_for(f"journalctl -u kheadersd.service | grep '{said}'")
    assert "1 of 1 precompiled headers made" in machine.do("kheadersctl", "status")


def test_libbcc_is_asked(machine: Container) -> None:
    tree = f"{_CACHE}/bcc"
    machine.do("install", "-d", "-m", "755", f"{tree}/include/linux")
    machine.do("install", "-m", "644", "/dev/null", f"{tree}/include/linux/kconfig.h")
    native = machine.do("uname", "-m")
    told = machine.do("python3", "-c", _ASK, tree, native, user="kheadersd", timeout=100).split()
    assert f"version {told[0]}." in machine.do(_COMPILER, "--version")  # as Debian has them
    assert {"__KERNEL__", "-nobuiltininc", f"{native}-unknown-linux-gnu"} <= set(told)
    assert machine.do("systemctl", "--failed", "--no-legend") == ""


def test_who_it_is(machine: Container) -> None:
    status = shell(machine, "cat /proc/self/status")["stdout"]
    fields = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    known = {machine.do("id", "-u", name) for name in ("root", "kheadersd", "nobody")}
    assert fields["Uid"].split()[0] not in known


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "/var/log",
        "/var/lib/dpkg",
        "/run/dbus",
        "/root",
        "/home",
        "/srv/deb",
        "/boot",
    ],
)
def test_what_it_cannot_see(machine: Container, path: str) -> None:
    assert machine.run("ls", path).returncode == 0
    assert shell(machine, f"test -e {path} && ls {path}")["status"] != 0


def test_nothing_can_be_written(machine: Container) -> None:
    for place in ("/", "/usr", "/etc", "/run", "/var", _CACHE, f"{_CACHE}/tree", "/dev", "/sys", "/proc/sys"):
        assert shell(machine, f"echo a >{place}/written")["status"] != 0
    assert shell(machine, f"rm {_CACHE}/tree/some.h; echo >{_CACHE}/tree/some.h")["status"] != 0
    assert shell(machine, "echo >/tmp/written")["status"] == 0
    assert "written" not in machine.do("ls", "/tmp")


def test_no_network_and_no_sockets(machine: Container) -> None:
    assert shell(machine, "tail -n +3 /proc/self/net/dev | cut -d: -f1")["stdout"].split() == ["lo"]
    script = "import socket, sys; socket.socket(getattr(socket, sys.argv[1]))"
    for family in ("AF_UNIX", "AF_INET", "AF_NETLINK"):
        done = call(machine, "/usr/bin/python3", "-Ic", script, family)
        assert (done["status"], "PermissionError" in done["stderr"] or "97" in done["stderr"]) == (
            1,
            True,
        )


def test_limits(machine: Container) -> None:
    eater = call(machine, "/usr/bin/python3", "-Ic", "bytearray(3 << 30)")
    assert (eater["status"], "MemoryError" in eater["stderr"]) == (1, True)
    writer = shell(machine, "exec cat /dev/zero", out=f"{_CACHE}/large")
    assert writer["limit"] == "it wrote more than 256 MiB"
    assert machine.do("stat", "-c", "%s", f"{_CACHE}/large") == str(256 << 20)
    machine.do("rm", f"{_CACHE}/large")
    late = shell(machine, "trap '' TERM; sleep 100 & sleep 100", seconds=1)
    assert late == {"error": "/bin/sh took longer than 1 s and was stopped"}
    printer = shell(machine, "head -c 500000000 /dev/zero; head -c 500000000 /dev/zero >&2; exit 1")
    assert (printer["status"], len(printer["stdout"]), len(printer["stderr"])) == (1, 65536, 65536)


def test_nothing_is_left(machine: Container) -> None:
    assert shell(machine, "setsid sleep 4242 >/dev/null 2>&1 & echo a")["stdout"] == "a\n"
    machine.wait_for("! grep -l 'sleep.424[2]' /proc/[0-9]*/cmdline")
    machine.wait_for("! systemctl list-units --no-legend 'kheaders-compile@*' | grep -q .")
    assert machine.do("systemctl", "--failed", "--no-legend") == ""


def test_only_the_daemon_can_ask(machine: Container) -> None:
    done = machine.run("python3", "-c", _CALL, json.dumps([["/bin/true"], "", "", 5, False]), user="nobody")
    assert "AssertionError" in done.stderr
    script = 'import socket; socket.socket(socket.AF_UNIX).connect("/run/kheaders-compile")'
    assert "PermissionError" in machine.run("python3", "-c", script, user="nobody").stderr
