"""The interface as other programs see it, through busctl on a real bus with the project's policy."""

from __future__ import annotations

import json
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from kheadersd import __version__
from kheadersd.config import Config
from kheadersd.daemon.answers import Answers
from kheadersd.daemon.interface import Service
from kheadersd.daemon.parts import Parts
from kheadersd.daemon.polkit import Authority
from kheadersd.daemon.signals import Signals
from kheadersd.dbus.objects import Interface
from kheadersd.host.host import Host
from kheadersd.host.kernel_module import NoLoader
from kheadersd.journal import Journal
from tests.support.archives import kheaders_files, make_kheaders
from tests.support.clients import halted, used_two_hours_ago
from tests.support.running import INTERFACE, NAME, OBJECT, REPOSITORY, Bus, Daemon, MakeDaemon, Refused
from tests.support.served_host import RELEASE, ServedHost

OPTIONAL = ("digest", "bytes", "files", "extracted_at", "last_used")


def get(bus: Bus, release: str = "", *options: str, member: str = "GetHeaders", **keywords: Any) -> Any:
    count = options[0] if options else "0"
    return bus.call(member, "sa{sv}", release, count, *options[1:], **keywords)


def sources(*names: str) -> tuple[str, ...]:
    return ("1", "sources", "as", str(len(names)), *names)


def test_headers_are_made_once_and_then_handed_out(bus: Bus, daemon: Daemon) -> None:
    path, details = get(bus)
    assert details["fresh"] is True
    assert details["release"] == RELEASE
    assert details["source"] == "sysfs"
    assert details["source_tree"] == details["build_tree"] == path
    assert details["environment"] == {"BCC_KERNEL_SOURCE": path, "BPFTRACE_KERNEL_SOURCE": path}
    assert details["files"] == len(kheaders_files(RELEASE))
    assert RELEASE in path
    assert details["digest"] in path
    for name, content in kheaders_files(RELEASE).items():
        assert Path(path, name).read_bytes() == content

    again, cached = get(bus, RELEASE)
    assert again == path
    assert cached["fresh"] is False
    assert {name: cached[name] for name in OPTIONAL} == {name: details[name] for name in OPTIONAL}
    assert bus.call("Lookup", "s", "") == [path, cached]
    assert bus.call("ListEntries") == [[cached]]
    assert daemon.leftovers() == []


def test_lookup_makes_nothing(bus: Bus, daemon: Daemon) -> None:
    refused = bus.call("Lookup", "s", "")
    assert isinstance(refused, Refused)
    assert RELEASE in refused.message
    assert daemon.entries() == []


def test_another_archive_for_the_same_release_is_another_entry(
    bus: Bus, daemon: Daemon, host: ServedHost
) -> None:
    first, _ = get(bus)
    host.show(make_kheaders(RELEASE, {"include/linux/new.h": b"new\n"}))
    second, details = get(bus)
    assert second != first
    assert details["fresh"] is True
    assert Path(second, "include/linux/new.h").exists()
    assert len(daemon.entries()) == 2


def test_the_same_archive_shown_anew_is_the_same_entry(bus: Bus, daemon: Daemon, host: ServedHost) -> None:
    first, _ = get(bus)
    host.show(make_kheaders(RELEASE))
    path, details = get(bus)
    assert (path, details["fresh"]) == (first, False)
    assert len(daemon.entries()) == 1


def test_a_tree_is_served_in_place(bus: Bus, daemon: Daemon, host: ServedHost) -> None:
    tree = host.root / "usr/src/linux-headers-test"
    for name, content in kheaders_files(RELEASE).items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(content)
    (host.modules / "build").symlink_to("/usr/src/linux-headers-test")
    path, details = get(bus)
    assert path == details["source_tree"] == details["build_tree"] == str(tree)
    assert details["source"] == "tree"
    assert "digest" not in details
    assert daemon.entries() == []
    assert bus.call("Lookup", "s", "")[0] == path
    # What was removed from the tree is noticed, and another source found.
    (tree / "include/linux/kconfig.h").unlink()
    assert get(bus)[1]["source"] == "sysfs"


@pytest.mark.parametrize("damage", ["entry", "tree", "emptied", "one directory", "truncated", "everything"])
def test_a_deleted_or_emptied_tree_is_made_again(bus: Bus, daemon: Daemon, damage: str) -> None:
    path = Path(get(bus)[0])
    assert get(bus)[1]["fresh"] is False
    with halted(daemon):
        match damage:
            case "entry":
                shutil.rmtree(path.parent)
            case "tree":
                shutil.rmtree(path)
            case "emptied":
                subprocess.run(["find", str(path), "-type", "f", "-delete"], check=True)
            case "one directory":
                shutil.rmtree(path / "arch/x86/include/asm")
            case "truncated":
                (path / "include/linux/kconfig.h").chmod(0o644)
                (path / "include/linux/kconfig.h").write_bytes(b"")
            case "everything":
                shutil.rmtree(daemon.cache)
    again, details = get(bus)
    assert again == str(path)
    assert details["fresh"] is True
    for name, content in kheaders_files(RELEASE).items():
        assert (path / name).read_bytes() == content
    assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]
    assert daemon.leftovers() == []


def test_verify_finds_what_the_quick_check_cannot(bus: Bus, daemon: Daemon) -> None:
    path = Path(get(bus)[0])
    changed = path / "arch/x86/include/asm/ptrace.h"
    changed.chmod(0o644)
    changed.write_bytes(b"#define EVIL 1\n")
    intact, problems = bus.call("Verify", "sa{sv}", "", "0")
    assert not intact
    assert any("asm/ptrace.h" in problem for problem in problems)
    # And what is known to be damaged is not handed out.
    assert get(bus)[1]["fresh"] is True
    assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]


def test_refresh_makes_the_entry_again_in_its_place(bus: Bus, daemon: Daemon) -> None:
    path, details = get(bus)
    inode = Path(path).stat().st_ino
    again, refreshed = get(bus, "", "1", "refresh", "b", "true")
    assert again == path
    assert refreshed["fresh"] is True
    assert refreshed["extracted_at"] > details["extracted_at"]
    assert Path(path).stat().st_ino != inode
    assert daemon.leftovers() == []


@pytest.mark.parametrize(
    "release",
    [
        "../../etc",
        "a/b",
        "..",
        ".",
        "6.1\n0",
        "6.1\u0085",
        "x" * 65,
        "x" * 10_000,
        "шесть" * 7,
    ],
)
def test_what_is_no_release_is_refused(bus: Bus, daemon: Daemon, release: str) -> None:
    for member in ("GetHeaders", "Acquire", "Remove", "Verify"):
        refused = bus.call(member, "sa{sv}", "--", release, "0")
        assert isinstance(refused, Refused)
        assert "release" in refused.message
        assert len(refused.message) < 300
    assert isinstance(bus.call("Lookup", "s", "--", release), Refused)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("1", "nonsense", "b", "true"), "nonsense"),
        (("1", "sources", "s", "tree"), "'as'"),
        (("1", "refresh", "s", "yes"), "'b'"),
        (("1", "refresh", "u", "1"), "'b'"),
        (("1", "sources", "as", "0"), "empty"),
        (("1", "sources", "as", "1", "nowhere"), "nowhere"),
        (("1", "sources", "as", "2", "tree", "tree"), "twice"),
        (("1", "reason", "s", "x"), "reason"),
        (("1", "force", "b", "true"), "force"),
    ],
)
def test_bad_options_are_refused_by_name(
    bus: Bus, daemon: Daemon, options: tuple[str, ...], named: str
) -> None:
    refused = get(bus, "", *options)
    assert isinstance(refused, Refused)
    assert named in refused.message
    assert daemon.entries() == []


def test_a_long_reason_is_refused(bus: Bus, daemon: Daemon) -> None:
    refused = get(bus, "", "1", "reason", "s", "x" * 257, member="Acquire")
    assert isinstance(refused, Refused)
    assert "256" in refused.message


def test_not_available_says_why_for_each_source_tried(bus: Bus, daemon: Daemon, host: ServedHost) -> None:
    host.archive.unlink()
    refused = get(bus, "", *sources("tree", "sysfs", "module-file", "module"))
    assert isinstance(refused, Refused)
    for name in ("tree: ", "sysfs: ", "module-file: ", "module: "):
        assert name in refused.message
    assert "package: " not in refused.message
    name, message = bus.get("LastError")
    assert name == "org.kheaders.Provide.Error.NotAvailable"
    assert message == refused.message


def test_only_the_sources_asked_for_are_tried(bus: Bus, daemon: Daemon) -> None:
    refused = get(bus, "", *sources("tree"))
    assert isinstance(refused, Refused)
    assert "sysfs" not in refused.message
    # A cached entry from another source is no answer either.
    get(bus)
    assert isinstance(get(bus, "", *sources("tree", "module-file")), Refused)


def test_another_kernels_archive_is_a_mismatch(bus: Bus, daemon: Daemon, host: ServedHost) -> None:
    host.show(make_kheaders("5.10.0-other"))
    refused = get(bus, "", *sources("sysfs"))
    assert isinstance(refused, Refused)
    assert "5.10.0-other" in refused.message
    assert bus.get("LastError")[0] == "org.kheaders.Provide.Error.ReleaseMismatch"
    assert daemon.entries() == daemon.leftovers() == []


def test_a_damaged_archive_is_corrupt_and_leaves_nothing(bus: Bus, daemon: Daemon, host: ServedHost) -> None:
    archive = bytearray(make_kheaders(RELEASE))
    archive[len(archive) // 2] ^= 0xFF
    host.show(bytes(archive))
    assert isinstance(get(bus, "", *sources("sysfs")), Refused)
    assert bus.get("LastError")[0] == "org.kheaders.Provide.Error.Corrupt"
    assert daemon.entries() == daemon.leftovers() == []


def test_remove_and_prune(bus: Bus, daemon: Daemon) -> None:
    assert isinstance(bus.call("Remove", "sa{sv}", "", "0"), Refused)
    path, details = get(bus)
    assert bus.call("Prune", "a{sv}", "0") == [[], 0]
    assert bus.call("Remove", "sa{sv}", "", "0") == [details["bytes"]]
    assert not Path(path).exists()
    assert bus.call("ListEntries") == [[]]
    assert daemon.entries() == daemon.leftovers() == []


def test_prune_removes_what_the_policy_lets_go(
    bus: Bus, host: ServedHost, make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    config = tmp_path / "kheadersd.conf"
    config.write_text("[Cache]\nMaxEntries=0\n")
    daemon = make_daemon(bus, root=host.root, arguments=[f"--config={config}"])
    get(bus)
    assert bus.call("Prune", "a{sv}", "0") == [[], 0], "the running kernel's entry stays"
    daemon.stop()
    (host.root / "proc/sys/kernel/osrelease").write_text("6.2.0-new\n")
    daemon.start()
    assert bus.call("Prune", "a{sv}", "0") == [[], 0], "a program was given it a moment ago"
    daemon.stop()
    used_two_hours_ago(daemon)
    daemon.start()
    releases, freed = bus.call("Prune", "a{sv}", "0")
    # Retention is also applied at start, which may have been first.
    assert (releases, freed > 0) in (([RELEASE], True), ([], False))
    assert daemon.entries() == []


def test_properties(bus: Bus, daemon: Daemon) -> None:
    assert bus.get("Version") == __version__
    assert bus.get("RunningRelease") == RELEASE
    assert bus.get("CacheDirectory") == str(daemon.cache)
    assert bus.get("ModuleState") == "builtin"
    assert bus.get("ModuleOwned") is False
    assert bus.get("Activity") == "idle"
    assert bus.get("EntryCount") == bus.get("CacheBytes") == bus.get("LeaseCount") == 0
    assert bus.get("LastError") == ["", ""]
    _, details = get(bus)
    assert bus.get("EntryCount") == 1
    assert bus.get("CacheBytes") == details["bytes"]


def test_properties_are_read_only(bus: Bus, daemon: Daemon) -> None:
    done = bus.busctl("set-property", NAME, OBJECT, INTERFACE, "Version", "s", "9")
    assert done.returncode
    assert "cannot be set" in done.stderr


def test_introspection_equals_the_installed_file(bus: Bus, daemon: Daemon) -> None:
    done = bus.busctl("introspect", "--xml-interface", NAME, OBJECT)
    live = ET.fromstring(done.stdout)
    installed = ET.parse(REPOSITORY / "kheadersd/data/org.kheaders.Provide.xml").getroot()
    (ours,) = installed.findall("interface")
    (theirs,) = [each for each in live.findall("interface") if each.get("name") == NAME]
    assert _shape(theirs) == _shape(ours)
    others = {each.get("name") for each in live.findall("interface")} - {NAME}
    assert others == {
        "org.freedesktop.DBus.Introspectable",
        "org.freedesktop.DBus.Peer",
        "org.freedesktop.DBus.Properties",
    }


async def test_what_is_declared_is_what_is_served(tmp_path: Path) -> None:
    """The table of methods in the code cannot drift from the XML."""
    interface = _interface(tmp_path)
    root = ET.parse(REPOSITORY / "kheadersd/data/org.kheaders.Provide.xml").getroot()
    declared = {
        method.get("name"): tuple(
            "".join(
                str(arg.get("type")) for arg in method.findall("arg") if arg.get("direction") == direction
            )
            for direction in ("in", "out")
        )
        for method in root.iter("method")
    }
    assert declared == {
        name: (method.in_signature, method.out_signature) for name, method in interface.methods.items()
    }
    properties = {
        each.get("name"): (each.get("type"), each[0].get("value")) for each in root.iter("property")
    }
    assert properties == {name: (each.signature, each.emits) for name, each in interface.properties.items()}


def _interface(tmp_path: Path) -> Interface:
    """The interface as the code has it, of a daemon that is never started."""
    host = Host(tmp_path)
    loader, journal = NoLoader("it is a test"), Journal("null")
    answers = Answers()
    parts = Parts(host, Config(), tmp_path / "cache", journal, loader, Signals(answers.forget))
    return Service(parts, Authority(), answers).interface


def _shape(element: ET.Element) -> tuple[Any, ...]:
    return element.tag, sorted(element.attrib.items()), [_shape(child) for child in element]


def test_describe_is_one_json_object(bus: Bus, daemon: Daemon) -> None:
    get(bus)
    (text,) = bus.call("Describe")
    state = json.loads(text)
    assert state["host"]["running_release"] == RELEASE
    assert state["cache"]["entries"][0]["source"] == "sysfs"
    assert state["module"] == {"state": "builtin", "owned": False}


def test_log_control(bus: Bus, daemon: Daemon) -> None:
    path, interface = "/org/freedesktop/LogControl1", "org.freedesktop.LogControl1"

    def read(name: str) -> str:
        return bus.busctl("get-property", NAME, path, interface, name).stdout.strip()

    assert read("LogLevel") == 's "debug"'
    assert read("SyslogIdentifier") == 's "kheadersd"'
    assert not bus.busctl("set-property", NAME, path, interface, "LogLevel", "s", "warning").returncode
    assert read("LogLevel") == 's "warning"'
    assert bus.busctl("set-property", NAME, path, interface, "LogLevel", "s", "loud").returncode
    assert not bus.busctl("set-property", NAME, path, interface, "LogTarget", "s", "console").returncode
    refused = bus.busctl("set-property", NAME, path, interface, "LogLevel", "s", "debug", user="nobody")
    assert refused.returncode
    assert read("LogLevel") == 's "warning"'


def test_a_second_daemon_on_the_same_cache_refuses_to_start(
    bus: Bus, daemon: Daemon, host: ServedHost, tmp_path: Path
) -> None:
    other = Daemon(bus, host.root, daemon.cache, tmp_path / "other.log")
    other.start(wait=False)
    assert other.process is not None
    assert other.process.wait(20) == 1
    assert "another kheadersd uses the cache directory" in other.log.read_text()


def test_a_second_daemon_on_the_same_bus_refuses_to_start(
    bus: Bus, daemon: Daemon, host: ServedHost, tmp_path: Path
) -> None:
    other = Daemon(bus, host.root, tmp_path / "cache2", tmp_path / "other.log")
    other.start(wait=False)
    assert other.process is not None
    assert other.process.wait(20) == 1
    assert NAME in other.log.read_text()
