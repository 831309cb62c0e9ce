"""kheadersctl as its users meet it: output, exit codes, terminals, pipes and leases."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ctl_rig import Ctl, Service
from tests.support.needs import needs_root
from tests.support.other_user import as_user, python_path
from tests.support.running import REPOSITORY

pytestmark = pytest.mark.slow

TREE = "/var/cache/kheaders/6.1.0-abc/tree"
NASTY = """a'b"c\\d$e`f g\nh"""


def set_entries(ctl: Ctl, *releases: str) -> None:
    address = f"--address={ctl.environment['DBUS_SYSTEM_BUS_ADDRESS']}"
    name, path = "org.kheaders.Provide", "/org/kheaders/Provide"
    command = ["busctl", address, "call", name, path, name, "SetEntries", "as", str(len(releases)), *releases]
    subprocess.run(command, check=True)


def test_get_prints_the_path_alone(ctl: Ctl) -> None:
    done = ctl("get")
    assert (done.returncode, done.stdout, done.stderr) == (0, TREE + "\n", "")


@pytest.mark.parametrize("command", [["get"], ["env"], ["exec", "true", "--release"]])
def test_warnings_are_shown_beside_the_output(ctl: Ctl, command: list[str]) -> None:
    words = ["exec", "--release=randomised", "true"] if command[0] == "exec" else [*command, "randomised"]
    done, without = ctl(*words), ctl(*command[:2])
    assert (done.returncode, done.stdout) == (0, without.stdout)
    assert done.stderr == "kheadersctl: warning: the structures are in another order\\x07\n"
    assert without.stderr == ""


def test_get_options_arrive(ctl: Ctl) -> None:
    done = ctl("get", "5.10.0", "--source", "sysfs", "--source", "tree", "--refresh", "--json")
    answer = json.loads(done.stdout)
    assert answer["path"] == TREE
    assert answer["release"] == "5.10.0"
    assert answer["environment"]["BCC_KERNEL_SOURCE"] == TREE
    assert json.loads(answer["x-options"]) == {"sources": ["sysfs", "tree"], "refresh": True}
    assert answer["x-interactive"] is False


@pytest.mark.parametrize(
    ("release", "code", "words"),
    [
        ("missing", 3, "no source has headers for missing\ntree: nothing\\x1b[31m there\nInstall"),
        ("uncached", 3, "nothing is cached\n"),
        ("nowhere", 3, "for nowhere: tree: there is no /lib/modules/nowhere/build; see: above; module-file:"),
        ("stuck", 1, "kheaders is stuck\n'journalctl -k'"),
        ("denied", 4, "you may not\nTry again as root."),
        ("ask", 4, "authenticating\nTry again on a terminal"),
        ("damaged", 1, "damaged\nReinstall"),
        ("invalid", 2, "that is no release\n"),
        ("full", 1, "full\nMake room"),
        ("used", 1, "somebody uses it\n"),
    ],
)
def test_errors_in_plain_lines(ctl: Ctl, release: str, code: int, words: str) -> None:
    done = ctl("get", release)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("kheadersctl: ")
    assert words in done.stderr


@pytest.mark.parametrize("command", ["get", "env", "exec"])
def test_reasons_on_a_terminal(ctl: Ctl, command: str) -> None:
    arguments = ["exec", "--release", "nowhere", "--", "true"] if command == "exec" else [command, "nowhere"]
    code, shown = ctl.on_terminal(*arguments)
    assert code == 3
    assert shown.splitlines() == [
        "kheadersctl: no source has headers for nowhere:",
        "  tree: there is no /lib/modules/nowhere/build; see: above",
        "  module-file: none",
        "  module: none",
        "Install the kernel's headers package; root may also have it downloaded.",
    ]
    assert "nothing\\x1b[31m there" in ctl.on_terminal("get", "missing")[1]


@pytest.mark.parametrize(
    ("command", "hint"),
    [
        ("remove uncached", "'kheadersctl list' shows what is in the cache."),
        ("verify uncached", "'kheadersctl list' shows what is in the cache."),
        ("get damaged", "Reinstall the kernel package, or try another source with --source."),
        ("remove used", "'kheadersctl status' shows who uses it; --force removes it all the same."),
        ("get used", None),
    ],
)
def test_hints_fit_the_command(ctl: Ctl, command: str, hint: str | None) -> None:
    complaint = ctl(*command.split()).stderr.splitlines()
    assert complaint[1:] == ([hint] if hint else [])


@pytest.mark.parametrize("refusal", ["used", "stuck"])
def test_a_module_that_stays_needs_no_hint(ctl: Ctl, refusal: str) -> None:
    address = f"--address={ctl.environment['DBUS_SYSTEM_BUS_ADDRESS']}"
    name, path = "org.kheaders.Provide", "/org/kheaders/Provide"
    subprocess.run(["busctl", address, "call", name, path, name, "RefuseToUnload", "s", refusal], check=True)
    done = ctl("unload")
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["get", "a", "b"],
        ["get", "--source", "wish"],
        ["get", "a\nb"],
        [b"get", b"\xff"],
        ["exec"],
        ["exec", "--"],
        ["exec", "--release", "6.1.0", "--"],
        ["env", "--shell", "tcsh"],
        ["status", "now"],
    ],
)
def test_usage(lonely: Ctl, arguments: list[str]) -> None:
    done = lonely(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: kheadersctl")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        *([command, b"\xff"] for command in ("get", "export", "env", "verify", "remove", "types")),
        ["exec", "--release", b"a\xff", "--", "true"],
        ["cc", "--release", b"\xff", "a.c"],
        ["cc", "--profile", b"\xff", "a.c"],
        ["cc", "--compiler", b"clang\xff", "a.c"],
        ["pch", b"\xff"],
        ["pch", "bpf-core", b"\xff"],
        ["pch", "bpf-core", "--compiler", b"\xff"],
        ["pch", "bpf-core", "--header", "linux/fs.h", "--header", b"linux/\xff.h"],
    ],
    ids=ascii,
)
def test_arguments_that_are_not_utf8(lonely: Ctl, arguments: list[str]) -> None:
    done = lonely(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "not valid UTF-8" in done.stderr


@pytest.mark.parametrize("arguments", [[b"\xff"], ["get", "--source", b"\xff"], ["list", b"\xff"]], ids=ascii)
def test_words_that_are_not_utf8(lonely: Ctl, arguments: list[str]) -> None:
    """Which would be wrong in any case."""
    done = lonely(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("option", [[], ["--session"]])
def test_variables_that_are_not_utf8(lonely: Ctl, tmp_path: Path, option: list[str]) -> None:
    name = "DBUS_SESSION_BUS_ADDRESS" if option else "DBUS_SYSTEM_BUS_ADDRESS"
    lonely.environment[name] = os.fsdecode(b"unix:path=/\xff")
    for command in (["get"], ["exec", "--", "true"], ["status", "--json"]):
        done = lonely(*option, *command)
        assert (done.returncode, done.stdout) == (5, "")
        assert "Traceback" not in done.stderr
        assert " bus: " in done.stderr
    if option:
        del lonely.environment[name]
        lonely.environment["XDG_RUNTIME_DIR"] = os.fsdecode(bytes(tmp_path) + b"/\xff")
        done = lonely(*option, "get")
        assert done.returncode == 5
        assert "no session bus" in done.stderr


def test_help_and_version_need_no_bus(lonely: Ctl) -> None:
    lonely.environment["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=/nowhere"
    assert lonely("--version").stdout == "kheadersctl 0.1.0\n"
    for command in ([], ["get"], ["exec"], ["monitor"]):
        done = lonely(*command, "--help")
        assert done.returncode == 0
        assert "usage: kheadersctl" in done.stdout


@pytest.mark.parametrize(
    "command",
    ["status", "get", "list", "env", "verify", "remove", "prune", "unload", "monitor", "exec -- true"],
)
def test_no_daemon_and_no_bus(lonely: Ctl, command: str) -> None:
    done = lonely(*command.split())
    assert done.returncode == 5
    assert "kheadersd does not answer" in done.stderr
    assert "systemctl start kheadersd" in done.stderr
    lonely.environment["DBUS_SYSTEM_BUS_ADDRESS"] = "unix:path=/nowhere"
    done = lonely(*command.split())
    assert done.returncode == 5
    assert "no system bus" in done.stderr
    assert len(done.stderr.splitlines()) == 2


def test_a_daemon_that_dies_meanwhile(ctl: Ctl, service: Service) -> None:
    with ctl.start("get", "forever") as child:
        assert service.next_line() == "asked"
        service.process.kill()
        _, stderr = child.communicate(timeout=10)
    assert child.returncode == 5
    assert "kheadersd does not answer" in stderr


def test_session_bus(ctl: Ctl) -> None:
    address = ctl.environment.pop("DBUS_SYSTEM_BUS_ADDRESS")
    ctl.environment["DBUS_SESSION_BUS_ADDRESS"] = address
    assert ctl("--session", "get").stdout == TREE + "\n"
    assert ctl("get", "--session").stdout == TREE + "\n"
    ctl.environment["DBUS_SESSION_BUS_ADDRESS"] = "unix:path=/nowhere"
    assert ctl("--session", "get").returncode == 5


def test_list(ctl: Ctl) -> None:
    row = ["6.1.0", "-", "sysfs", "46137344", "6372", "2023-11-14 22:13:20", "-", TREE]
    assert ctl("list").stdout == "\t".join(row) + "\n"
    assert json.loads(ctl("list", "--json").stdout)[0]["bytes"] == 46137344
    assert ctl("--json", "list").stdout == ctl("list", "--json").stdout
    code, shown = ctl.on_terminal("list")
    header, entry = shown.splitlines()
    assert code == 0
    assert header.split() == ["RELEASE", "WHAT", "SOURCE", "SIZE", "FILES", "MADE", "LAST", "USED", "PATH"]
    assert "44.0 MiB" in entry
    set_entries(ctl)
    assert ctl("list").stdout == ""
    assert ctl("list", "--json").stdout == "[]\n"
    assert "The cache is empty" in ctl.on_terminal("list")[1]


def test_status(ctl: Ctl) -> None:
    shown = ctl("status").stdout
    assert "Headers:        " + TREE + " (from sysfs)\n" in shown
    assert "1 entry, 44.0 MiB in /var/cache/kheaders\n" in shown
    assert "the disk was full (NoSpace)\n" in shown
    assert "6.1.0  :1.7  user 1000  process 4242  tracing\\nfor fun\n" in shown
    assert json.loads(ctl("status", "--json").stdout) == {"version": "0.1.0"}


@pytest.mark.parametrize("shell", ["sh", "fish", "systemd"])
def test_env(ctl: Ctl, shell: str) -> None:
    prefix, quote = {"sh": ("export ", ""), "fish": ("set -gx ", "'"), "systemd": ("", '"')}[shell]
    between = " " if shell == "fish" else "="
    expected = [f"{prefix}{name}_KERNEL_SOURCE{between}{quote}{TREE}{quote}" for name in ("BCC", "BPFTRACE")]
    assert ctl("env", "--shell", shell).stdout.splitlines() == expected
    assert ctl("env", "tree", "--shell", shell).stdout == ""


def test_env_survives_a_shell(ctl: Ctl) -> None:
    ctl.environment["SETTINGS"] = ctl("env", "nasty").stdout
    done = subprocess.run(
        ["sh", "-c", 'eval "$SETTINGS"; printf %s "$BCC_KERNEL_SOURCE"'],
        env=ctl.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == NASTY
    assert ctl("env", "nasty", "--shell=systemd").stdout == 'BCC_KERNEL_SOURCE="' + (
        NASTY.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`") + '"\n'
    )
    assert (
        ctl("env", "nasty", "--shell=fish").stdout == "set -gx BCC_KERNEL_SOURCE 'a\\'b\"c\\\\d$e`f g\nh'\n"
    )
    assert json.loads(ctl("env", "nasty", "--json").stdout) == {"BCC_KERNEL_SOURCE": NASTY}


def test_exec_sets_the_environment_and_holds_the_lease(ctl: Ctl, service: Service, tmp_path: Path) -> None:
    go = tmp_path / "go"
    os.mkfifo(go)
    script = f'echo "$BCC_KERNEL_SOURCE|$0|$1"; sleep 60 & echo $!; read x <{go}; exit 7'
    with ctl.start("exec", "--release", "6.1.0", "--", "sh", "-c", script, "--", "--json") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == f"{TREE}|--|--json\n"
        grandchild = int(child.stdout.readline())
        assert service.is_silent()
        go.write_text("\n")
        assert child.wait(10) == 7
        assert service.is_silent()  # what the command started still has it
        os.kill(grandchild, signal.SIGTERM)
        assert service.next_line() == "lease ended"


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["/no/such/program"], 127, "No such file or directory"),
        (["no-such-program-at-all"], 127, "No such file or directory"),
        (["/etc/passwd"], 126, "Permission denied"),
        (["/"], 126, "Permission denied"),
        ([os.fsdecode(b"/no/\xff")], 127, "cannot run /no/"),
        (["true"], 0, ""),
        (["true", os.fsdecode(b"\xff")], 0, ""),
        (["sh", "-c", "exit 3"], 3, ""),
    ],
)
def test_exec_of_what_is_not_there(
    ctl: Ctl, service: Service, command: list[str], code: int, words: str
) -> None:
    for separator in ([], ["--"]):
        done = ctl("exec", *separator, *command)
        assert done.returncode == code
        assert words in done.stderr
        assert "Traceback" not in done.stderr
        assert service.next_line() == "lease ended"


def test_exec_without_headers_runs_nothing(ctl: Ctl) -> None:
    done = ctl("exec", "--release", "missing", "--", "echo", "ran")
    assert (done.returncode, done.stdout) == (3, "")


def test_verify(ctl: Ctl) -> None:
    assert ctl("verify").stdout == "6.1.0: intact\n"
    set_entries(ctl, "6.1.0", "broken")
    done = ctl("verify")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [
        "6.1.0: intact",
        "broken: damaged",
        "  include/a.h: changed\\x07",
        "  include/b.h: missing",
    ]
    done = ctl("verify", "--json", "broken")
    assert done.returncode == 1
    assert json.loads(done.stdout)[0]["problems"][1] == "include/b.h: missing"
    assert ctl("verify", "uncached").returncode == 3
    set_entries(ctl)
    assert (ctl("verify").returncode, ctl("verify").stdout) == (0, "")


def test_remove_prune_unload(ctl: Ctl) -> None:
    assert ctl("remove", "6.1.0").stdout == "44.0 MiB freed\n"
    assert json.loads(ctl("remove", "6.1.0", "--force", "--json").stdout) == {"bytes_freed": 2048}
    assert ctl("remove", "used").returncode == 1
    assert ctl("prune").stdout == "removed 5.10.0\n1.0 KiB freed\n"
    assert json.loads(ctl("prune", "--json").stdout) == {"releases": ["5.10.0"], "bytes_freed": 1024}
    assert ctl("unload").stdout == "available\n"
    assert json.loads(ctl("unload", "--json").stdout) == {"module_state": "available"}


def test_progress_on_a_terminal_only(ctl: Ctl) -> None:
    assert ctl("get", "slow").stderr == ""
    code, shown = ctl.on_terminal("get", "slow")
    assert code == 0
    assert "6.1.0: extracting  25%" in shown
    assert "\r\x1b[K6.1.0: extracting  50%" in shown
    assert shown.endswith("\r\x1b[K" + TREE + "\r\n")


def test_a_terminal_allows_questions(ctl: Ctl) -> None:
    _, shown = ctl.on_terminal("get", "--json")
    assert json.loads(shown)["x-interactive"] is True


def test_monitor(ctl: Ctl, service: Service, bus: str) -> None:
    with ctl.start("monitor", "--json") as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert service.next_line() == "properties read", "it listens by then"
        forged = ["org.kheaders.Provide", "EntryRemoved", "sss", "5.10.0", "/", "forged"]
        subprocess.run(["busctl", f"--address={bus}", "emit", "/org/kheaders/Provide", *forged], check=True)
        ctl("remove", "5.10.0")
        event = json.loads(child.stdout.readline())
        assert event.pop("time") > 0
        assert event == {"signal": "EntryRemoved", "release": "5.10.0", "path": TREE, "reason": "on request"}
        assert json.loads(child.stdout.readline())["fraction"] == 1.0
        assert json.loads(child.stdout.readline())["changed"] == {"EntryCount": 1}
        child.send_signal(signal.SIGINT)
        assert child.wait(10) == 130
        assert child.stderr.read() == ""


def test_monitor_for_people(ctl: Ctl, service: Service) -> None:
    with ctl.start("monitor") as child:
        assert child.stdout is not None
        assert service.next_line() == "properties read", "it listens by then"
        ctl("remove", "5.10.0")
        shown = [child.stdout.readline()[9:] for _ in range(3)]
        assert shown == [
            f"removed 5.10.0 {TREE}: on request\n",
            "5.10.0: removing 100%\n",
            "EntryCount = 1\n",
        ]
        child.stdout.close()
        ctl("remove", "5.10.0")
        assert child.wait(10) == 141


@needs_root("only root can become another user")
def test_somebody_else_on_a_terminal_without_polkit(ctl: Ctl) -> None:
    """What asks for passwords has nobody to talk to: not the user's business while nothing needs it."""
    ctl.command = [*as_user("nobody"), *ctl.command]
    ctl.environment["PYTHONPATH"] = python_path()
    code, shown = ctl.on_terminal("get")
    assert (code, shown) == (0, TREE + "\r\n")


def test_interrupted_quietly(ctl: Ctl, service: Service) -> None:
    with ctl.start("get", "forever") as child:
        assert service.next_line() == "asked"
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=10) == ("", "")
    assert child.returncode == 130


def test_interrupted_while_it_reads(lonely: Ctl, tmp_path: Path) -> None:
    """From one who has nothing to say; a thread that hangs does not keep the command."""
    program = tmp_path / "program.c"
    os.mkfifo(program)
    with lonely.start("cc", str(program)) as child, program.open("wb"):
        child.send_signal(signal.SIGINT)
        assert child.communicate(timeout=20) == ("", "")
    assert child.returncode == 130


def test_nobody_reads(ctl: Ctl) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    for command in (["list"], ["get"], ["list", "--json"], ["status"]):
        done = subprocess.run(
            [*ctl.command, *command],
            env=ctl.environment,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=20,
            check=False,
        )
        assert (done.returncode, done.stderr) == (141, "")
    os.close(writer)


def test_output_that_cannot_be_written(ctl: Ctl) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*ctl.command, "get"],
            env=ctl.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=20,
            check=False,
        )
    assert (done.returncode, done.stderr) == (
        1,
        "kheadersctl: cannot write the output: No space left on device\n",
    )
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&- 2>&-', "sh", *ctl.command, "get"],
        env=ctl.environment,
        timeout=20,
        check=False,
    )
    assert closed.returncode in (0, 1)


@pytest.mark.parametrize(
    ("command", "module"), [("kheadersctl", "kheadersd.cli.__main__"), ("kheadersd", "kheadersd.__main__")]
)
def test_a_missing_library_is_one_line(command: str, module: str) -> None:
    script = (
        "import sys; sys.modules['dbus_next'] = sys.modules['dbus_fast'] = None; sys.argv[1:] = ['list']; "
        f"from {module} import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{command}: {sys.executable} cannot run {command}: ")
    assert "install python3-dbus-next or" in done.stderr
    assert done.stderr.count("\n") == 1
