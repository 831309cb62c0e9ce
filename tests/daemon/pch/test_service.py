"""Precompiled headers from the whole daemon, as other programs see them: real headers, real compilers."""

from __future__ import annotations

import concurrent.futures
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kheadersd.dbus import frames as wire
from kheadersd.dbus.codec import Variant, decode, encode
from tests.support.archives import make_kheaders
from tests.support.bcc import is_installed
from tests.support.callers import client
from tests.support.clients import Ctl, client_on, eventually, wait_until
from tests.support.hosts import make_module
from tests.support.kheaders import RealHeaders
from tests.support.needs import needs_root
from tests.support.polkit import POLKITD, MutePolkit, Polkit, rule
from tests.support.precompiling import COMPILERS, is_there
from tests.support.raw import HERE
from tests.support.running import REPOSITORY, Bus, Daemon, MakeDaemon, Refused
from tests.support.served_host import ServedHost
from tests.support.small_headers import FILES, RELEASE

pytestmark = [
    pytest.mark.slow,
    needs_root("only root's compilers are used"),
    pytest.mark.skipif(not any(map(is_there, COMPILERS)), reason="no clang of a known version is installed"),
]

COMPILER = next(filter(is_there, COMPILERS), "")
NEWEST = next(filter(is_there, reversed(COMPILERS)), "")
MAJOR = COMPILER.rpartition("-")[2]
# Quick to compile, and enough to tell one thing from another.
FEW = ("linux/types.h",)

PROGRAM = """\
#include <linux/types.h>
{includes}
__attribute__((section("kprobe/do_exit"), used)) int traced(void *registers)
{{
	return sizeof(u64) {more};
}}
char _license[] __attribute__((section("license"), used)) = "GPL";
"""


def get_pch(bus: Bus, profile: str = "bpf-core", headers: Sequence[str] = FEW, **options: Any) -> Any:
    """What GetPch answers. With ``headers=()`` those of the profile."""
    values = {"compiler": COMPILER, **options}
    given: list[str] = []
    for name, value in values.items():
        kind = "b" if isinstance(value, bool) else "s"
        given += [name, kind, str(value).lower() if kind == "b" else value]
    if headers:
        given += ["headers", "as", str(len(headers)), *headers]
    count = len(values) + bool(headers)
    return bus.call("GetPch", "ssa{sv}", "", profile, str(count), *given)


def compiled(
    arguments: Sequence[str], directory: Path, includes: str = "", more: str = "", compiler: str = COMPILER
) -> subprocess.CompletedProcess[str]:
    (directory / "program.c").write_text(PROGRAM.format(includes=includes, more=more))
    command = [compiler, *arguments, "-c", "program.c", "-o", "program.o"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def without_pch(arguments: list[str]) -> list[str]:
    at = arguments.index("-include-pch")
    return arguments[:at] + arguments[at + 2 :]


def space(directory: str) -> int:
    """Bytes on disk."""
    return int(subprocess.check_output(["du", "-s", "--block-size=1", directory]).split()[0])


# Made once, and used


def test_a_named_profile(bus: Bus, real_daemon: Daemon, tmp_path: Path, real_headers: RealHeaders) -> None:
    path, arguments, details = get_pch(bus, headers=())
    assert arguments[arguments.index("-include-pch") + 1] == path
    assert path.startswith(
        f"{real_daemon.cache}/{real_headers.release}-{details['digest']}/pch/{details['key']}/"
    )
    assert (details["fresh"], details["headers_kept"], details["source"]) == (True, True, "module-file")
    assert details["headers"] == ["linux/bpf.h", "linux/ptrace.h", "linux/sched.h", "linux/fs.h"]
    assert (details["compiler"], details["profile"]) == (f"/usr/lib/llvm-{MAJOR}/bin/clang", "bpf-core")
    assert details["compiler_version"].startswith(f"{MAJOR}.")
    include = "#include <linux/sched.h>"
    more = "+ sizeof(struct task_struct)"
    for vector in (arguments, without_pch(arguments)):
        done = compiled(vector, tmp_path, include, more)
        assert (done.returncode, done.stderr) == (0, "")
    again, same, cached = get_pch(bus, headers=())
    assert (again, same, cached["fresh"], cached["key"]) == (path, arguments, False, details["key"])
    assert real_daemon.leftovers() == []
    (listed,) = bus.call("ListEntries")[0]
    assert listed["pch_count"] == 1
    assert listed["bytes"] == bus.get("CacheBytes") > details["pch_bytes"]
    (described,) = json.loads(bus.call("Describe")[0])["cache"]["entries"]
    assert described["pchs"][0]["path"] == path


def test_every_user_can_read_it(bus: Bus, daemon: Daemon) -> None:
    path = Path(get_pch(bus)[0])
    assert path.stat().st_mode & 0o777 == 0o644
    for directory in (path.parent, path.parent.parent, path.parent / "include"):
        assert directory.stat().st_mode & 0o777 == 0o755
    assert (path.parent / "include/bpf").readlink() == Path("/usr/include/bpf")


async def test_many_ask_and_one_is_compiled(bus: Bus, daemon: Daemon) -> None:
    import asyncio

    async with client_on(bus) as client:
        options = {"compiler": Variant("s", COMPILER), "headers": Variant("as", list(FEW))}
        calls = [client.call("GetPch", "ssa{sv}", "", "bpf-core", options) for _ in range(20)]
        answers = await asyncio.gather(*calls)
    assert len({answer[0] for answer in answers}) == 1
    assert daemon.log.read_text().count("Compiled 1 headers") == 1


@pytest.mark.parametrize("other", COMPILERS)
def test_compilers_side_by_side(bus: Bus, daemon: Daemon, tmp_path: Path, other: str) -> None:
    if other == COMPILER or not is_there(other):
        pytest.skip(f"{other} is the same, or not installed")
    one, vector, _ = get_pch(bus)
    two, others, details = get_pch(bus, compiler=other)
    assert one != two
    assert f"clang-{details['compiler_version'].partition('.')[0]}" == other
    assert compiled(vector, tmp_path).returncode == 0
    assert compiled(others, tmp_path, compiler=other).returncode == 0
    # Never one for the other: the compiler would refuse it, and say so.
    assert "PCH" in compiled(vector, tmp_path, compiler=other).stderr


def test_it_survives_the_daemon(bus: Bus, daemon: Daemon, tmp_path: Path) -> None:
    path, arguments, _ = get_pch(bus)
    daemon.kill()
    daemon.start()
    again, _, details = get_pch(bus)
    assert (again, details["fresh"]) == (path, False)
    assert compiled(arguments, tmp_path).returncode == 0


def test_headers_made_anew_leave_it(bus: Bus, daemon: Daemon, tmp_path: Path) -> None:
    path, arguments, _ = get_pch(bus)
    _, details = bus.call("GetHeaders", "sa{sv}", "", "1", "refresh", "b", "true")
    assert (details["fresh"], details["pch_count"]) == (True, 1)
    assert get_pch(bus)[2]["fresh"] is False
    assert compiled(arguments, tmp_path).returncode == 0
    assert Path(path).exists()


def test_it_goes_with_its_entry(bus: Bus, daemon: Daemon) -> None:
    path, _, _ = get_pch(bus)
    size = Path(path).stat().st_size
    (freed,) = bus.call("Remove", "sa{sv}", "", "0")
    assert freed > size
    assert daemon.entries() == []


# Without the headers


def test_headers_can_go(bus: Bus, real_daemon: Daemon, tmp_path: Path) -> None:
    path, arguments, details = get_pch(bus, keep_headers=False)
    tree = details["source_tree"]
    assert details["headers_kept"] is False
    assert space(tree) <= 1 << 20
    assert not Path(tree, "include/linux/types.h").exists()
    assert compiled(arguments, tmp_path).returncode == 0
    assert real_daemon.leftovers() == []
    # Truthfully told,
    assert [entry["headers_kept"] for entry in bus.call("ListEntries")[0]] == [False]
    assert "there are no headers" in bus.call("Lookup", "s", "").message
    assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]
    assert get_pch(bus, keep_headers=False)[2]["fresh"] is False
    # also by the next daemon,
    real_daemon.kill()
    real_daemon.start()
    assert get_pch(bus, keep_headers=False)[2]["fresh"] is False
    # and there is a way back.
    assert "file not found" in compiled(arguments, tmp_path, "#include <linux/fs.h>").stderr
    again, headers = bus.call("GetHeaders", "sa{sv}", "", "0")
    assert (again, headers["headers_kept"], headers["pch_count"]) == (tree, True, 1)
    assert compiled(arguments, tmp_path, "#include <linux/fs.h>").returncode == 0
    assert get_pch(bus)[:2] == [path, arguments]


def test_another_profile_after_they_have_gone(bus: Bus, daemon: Daemon, tmp_path: Path) -> None:
    one, vector, _ = get_pch(bus, keep_headers=False)
    two, others, details = get_pch(bus, headers=("linux/types.h", "linux/kref.h"), keep_headers=False)
    assert one != two
    assert (details["headers_kept"], details["pch_count"]) == (False, 2)
    assert space(details["source_tree"]) <= 1 << 20
    for arguments in (vector, others):
        assert compiled(arguments, tmp_path).returncode == 0


def test_whoever_wants_them_kept_gets_them_back(bus: Bus, daemon: Daemon) -> None:
    path, _, _ = get_pch(bus, keep_headers=False)
    again, _, details = get_pch(bus)
    assert (again, details["headers_kept"]) == (path, True)
    assert Path(details["source_tree"], "include/linux/fs.h").exists()


def test_headers_that_cannot_be_had_again(bus: Bus, daemon: Daemon, host: ServedHost, tmp_path: Path) -> None:
    path, arguments, _ = get_pch(bus, keep_headers=False)
    host.archive.unlink()
    again, _, details = get_pch(bus)
    assert (again, details["headers_kept"]) == (path, False)
    assert compiled(arguments, tmp_path).returncode == 0


async def test_leased_headers_stay(bus: Bus, daemon: Daemon) -> None:
    async with client_on(bus) as client:
        _, lease = await client.acquire()
        details = get_pch(bus, keep_headers=False)[2]
        assert details["headers_kept"] is True
        assert "fs.h" in os.listdir(f"{details['source_tree']}/include/linux")
        os.close(lease)
        await eventually(lambda: bus.get("LeaseCount") == 0)
    assert get_pch(bus, keep_headers=False)[2]["headers_kept"] is False


DROPPING = ("GetPch", "ssa{sv}", "", "bpf-core", "2", "compiler", "s", COMPILER, "keep_headers", "b", "false")
FORCED = (*DROPPING[:4], "3", *DROPPING[5:], "force", "b", "true")


def test_an_ordinary_user_takes_headers_from_no_one(bus: Bus, real_daemon: Daemon) -> None:
    """Given to a program or not, with force or without, before and after a restart; here no polkit runs."""
    path, _ = bus.call("GetHeaders", "sa{sv}", "", "0")
    for asked in (DROPPING, FORCED):
        pch, _, details = bus.call(*asked, user="nobody")
        assert details["headers_kept"] is True
        assert "org.kheaders.provide.manage" in details["why_kept"]
    real_daemon.kill()
    real_daemon.start()
    assert bus.call(*DROPPING, user="nobody")[2]["headers_kept"] is True
    assert Path(path, "include/linux/fs.h").exists()
    done = Ctl(bus, "nobody")("pch", "bpf-core", "--compiler", COMPILER, "--drop-headers", "--force")
    assert (done.returncode, done.stdout) == (0, f"{pch}\n")
    assert done.stderr.startswith("kheadersctl: the headers stay in the cache: ")
    assert done.stderr.count("\n") == 1
    # Those that root drops, an ordinary user need not have back.
    done = Ctl(bus)("pch", "bpf-core", "--compiler", COMPILER, "--drop-headers")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{pch}\n", "")
    dropped = bus.call(*DROPPING, user="nobody")
    assert (dropped[0], dropped[2]["headers_kept"], dropped[2]["fresh"]) == (pch, False, False)
    # Anew, they are made with headers that stay.
    assert bus.call("Remove", "sa{sv}", "", "0")
    assert bus.call(*DROPPING, user="nobody")[2]["headers_kept"] is True


@pytest.mark.skipif(not POLKITD.exists(), reason="polkitd is not installed")
def test_who_may_manage_may_drop_headers(bus: Bus, daemon: Daemon) -> None:
    """But not those that a program was given a moment ago, even if the daemon was restarted since."""
    polkit = Polkit(bus, bus.directory, rule("manage", "yes"))
    polkit.start()
    try:
        path, _ = bus.call("GetHeaders", "sa{sv}", "", "0")
        assert bus.call(*DROPPING, user="nobody")[2]["headers_kept"] is True
        assert daemon.stop() == 0
        daemon.start()
        details = bus.call(*DROPPING, user="nobody")[2]
        assert (details["headers_kept"], "ten minutes" in details["why_kept"]) == (True, True)
        assert daemon.stop() == 0
        (record,) = daemon.cache.glob("*/entry.json")
        hour_ago = time.time() - 3600
        os.utime(record, (hour_ago, hour_ago))
        daemon.start()
        assert bus.call(*DROPPING, user="nobody")[2]["headers_kept"] is False
        assert not Path(path, "include/linux/fs.h").exists()
    finally:
        polkit.stop()


def test_no_password_is_asked_for_to_drop_headers(bus: Bus, daemon: Daemon) -> None:
    """Even if the caller's message allows it."""
    with MutePolkit(bus) as mute, client(bus.socket, "nobody") as nobody:
        options = {"compiler": Variant("s", COMPILER), "keep_headers": Variant("b", False)}
        fields = HERE._replace(member="GetPch", signature="ssa{sv}")
        body = encode("ssa{sv}", ["", "bpf-core", options])
        nobody.send(fields, body, flags=wire.ALLOW_INTERACTIVE_AUTHORIZATION)
        mute.wait_for_questions(1)
        ((_, question),) = mute.questions
        assert decode("(sa{sv})sa{ss}us", question)[1:4] == ["org.kheaders.provide.manage", {}, 0]


def test_headers_that_no_source_has_stay_unless_forced(bus: Bus, daemon: Daemon, host: ServedHost) -> None:
    path, _ = bus.call("GetHeaders", "sa{sv}", "", "0")
    host.archive.unlink()
    details = bus.call(*DROPPING)[2]
    assert details["headers_kept"] is True
    assert "no source can restore them: " in details["why_kept"]
    assert "sysfs: there is no " in details["why_kept"]
    done = Ctl(bus)("pch", "bpf-core", "--compiler", COMPILER, "--drop-headers")
    assert done.returncode == 0
    assert "no source can restore them" in done.stderr
    assert Path(path, "include/linux/fs.h").exists()
    details = bus.call(*FORCED)[2]
    assert (details["headers_kept"], "why_kept" in details) == (False, False)
    assert not Path(path, "include/linux/fs.h").exists()


def test_the_archive_of_a_loaded_module_counts_with_its_file_alone(
    bus: Bus, daemon: Daemon, host: ServedHost
) -> None:
    bus.call("GetHeaders", "sa{sv}", "", "0")
    (host.root / "sys/module/kheaders").mkdir(parents=True)
    assert "goes with the module" in bus.call(*DROPPING)[2]["why_kept"]
    place = host.modules / "kernel/kernel"
    place.mkdir(parents=True)
    (place / "kheaders.ko").write_bytes(make_module(host.archive.read_bytes()))
    assert bus.call(*DROPPING)[2]["headers_kept"] is False


def wrapped(directory: Path, script: str) -> list[str]:
    """The compiler with a script in front of it; the daemon's arguments with which it is the only one."""
    wrapper = directory / COMPILER
    wrapper.write_text(f'#!/bin/sh\n{script}\nexec /usr/bin/{COMPILER} "$@"\n')
    wrapper.chmod(0o755)
    config = directory / "kheadersd.conf"
    config.write_text(f"[Compile]\nDirectories={directory}\n")
    return [f"--config={config}"]


_IS_CANARY = 'case "$*" in *"-c -o /dev/null"*)'


def test_headers_without_which_it_does_not_work_stay(
    memory: Path, bus: Bus, host: ServedHost, make_daemon: MakeDaemon, roots_own: Path
) -> None:
    """Here the compiler accepts nothing once they have gone."""
    arguments = wrapped(roots_own, f'{_IS_CANARY} echo "x: error: no" >&2; exit 1 ;; esac')
    daemon = make_daemon(bus, root=host.root, cache=memory / "cache", arguments=arguments)
    answer = get_pch(bus, keep_headers=False)
    assert isinstance(answer, Refused)
    assert "is not usable, so they were kept" in answer.message
    assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]
    path, details = bus.call("Lookup", "s", "")
    assert details["headers_kept"] is True
    assert Path(path, "include/linux/fs.h").exists()
    assert get_pch(bus)[2]["fresh"] is False
    assert daemon.leftovers() == []


@pytest.mark.parametrize("how", ["remove", "kill", "stop"])
def test_what_is_not_proven_is_not_handed_out(
    memory: Path, bus: Bus, host: ServedHost, make_daemon: MakeDaemon, roots_own: Path, how: str
) -> None:
    """The entry is removed, the daemon killed or stopped, while a program is compiled without the headers."""
    flag = roots_own / "began"
    flag.touch()
    flag.chmod(0o666)
    script = f"{_IS_CANARY} echo a >>{flag}; sleep 600 ;; esac"
    daemon = make_daemon(bus, root=host.root, cache=memory / "cache", arguments=wrapped(roots_own, script))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_pch, bus, keep_headers=False)
        wait_until(lambda: flag.read_text() != "")
        assert "there are no headers" in bus.call("Lookup", "s", "").message
        if how == "remove":
            bus.call("Remove", "sa{sv}", "", "1", "force", "b", "true")
            daemon.kill()
        elif how == "stop":
            assert daemon.stop() == 0
        else:
            daemon.kill()
        asking.result()
    daemon.start()
    assert daemon.leftovers() == []
    if how == "stop":
        assert bus.call("Lookup", "s", "")[1]["headers_kept"] is True
    else:
        assert daemon.entries() == []
    assert bus.call("GetHeaders", "sa{sv}", "", "0")[1]["headers_kept"] is True


@pytest.mark.parametrize("how", ["removed", "changed"])
def test_a_prefix_header_is_as_it_was_compiled(bus: Bus, daemon: Daemon, tmp_path: Path, how: str) -> None:
    path, arguments, _ = get_pch(bus)
    prefix = Path(path).with_name("prefix.h")
    assert prefix.read_text()
    if how == "removed":
        prefix.unlink()
    else:
        prefix.write_text(prefix.read_text() + "#define asm(...)\n")
    intact, problems = bus.call("Verify", "sa{sv}", "", "0")
    assert not intact
    assert "prefix.h: " in problems[0]
    assert get_pch(bus)[:2] == [path, arguments]
    assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]
    assert compiled(without_pch(arguments), tmp_path).returncode == 0


_RUNS = {
    # Of the compiler: for the precompiled header, for what that still needs, for a program without headers.
    "making": 'case "$*" in *"c-header"*)',
    "needing": 'case "$*" in *" -M -MT "*)',
    "trying": _IS_CANARY,
}


@pytest.mark.parametrize("what", ["tree", "header"])
@pytest.mark.parametrize("run", _RUNS)
def test_headers_that_are_removed_while_they_are_compiled_are_made_again(
    memory: Path, bus: Bus, host: ServedHost, make_daemon: MakeDaemon, roots_own: Path, run: str, what: str
) -> None:
    began, go_on = roots_own / "began", roots_own / "go-on"
    began.touch()
    began.chmod(0o666)
    wait = f"echo a >>{began}; while [ ! -e {go_on} ]; do sleep 0.05; done"
    daemon = make_daemon(
        bus,
        root=host.root,
        cache=memory / "cache",
        arguments=wrapped(roots_own, f"{_RUNS[run]} {wait} ;; esac"),
    )
    keep = run == "making"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_pch, bus, headers=(), keep_headers=keep)
        wait_until(lambda: began.read_text() != "")
        (name,) = daemon.entries()
        entry = daemon.cache / name
        if what == "tree":
            shutil.rmtree(entry)
        else:
            for header in entry.rglob("*.h"):
                header.unlink()
        go_on.touch()
        answer = asking.result()
    assert not isinstance(answer, Refused), answer
    assert answer[2]["headers_kept"] is keep
    assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]
    assert daemon.leftovers() == []


def test_every_profile_can_do_without_headers(bus: Bus, real_daemon: Daemon) -> None:
    for profile in sorted(path.stem for path in (REPOSITORY / "kheadersd/data/profiles").glob("*.toml")):
        if profile == "types" or (profile.startswith("bcc") and not is_installed()):
            continue
        count, compiler = ("1", ()) if profile.startswith("bcc") else ("2", ("compiler", "s", COMPILER))
        options = (count, *compiler, "keep_headers", "b", "false")
        answer = bus.call("GetPch", "ssa{sv}", "", profile, *options)
        assert not isinstance(answer, Refused), (profile, answer)
        assert answer[2]["headers_kept"] is False
    assert space(answer[2]["source_tree"]) <= 1 << 20


def test_what_a_removed_compiler_made_is_in_nobodys_way(
    memory: Path, bus: Bus, host: ServedHost, make_daemon: MakeDaemon, own_compiler: tuple[Path, Path]
) -> None:
    program, config = own_compiler
    shutil.copy(program, program.with_name("clang-7"))
    make_daemon(bus, root=host.root, cache=memory / "cache", arguments=[f"--config={config}"])
    path, _, _ = get_pch(bus, compiler="clang")
    program.unlink()
    assert get_pch(bus, compiler="clang-7", keep_headers=False)[2]["headers_kept"] is False
    assert not Path(path).exists()


def test_mounted_headers_stay(bus: Bus, daemon: Daemon, tmp_path: Path) -> None:
    """As they are while a program looks for them in /lib/modules."""
    path, _ = bus.call("GetHeaders", "sa{sv}", "", "0")
    place = tmp_path / "build"
    place.mkdir()
    subprocess.run(["mount", "--bind", path, place], check=True)
    try:
        assert get_pch(bus, keep_headers=False)[2]["headers_kept"] is True
        assert (place / "include/linux/fs.h").exists()
    finally:
        subprocess.run(["umount", place], check=True)
    assert get_pch(bus, keep_headers=False)[2]["headers_kept"] is False


# From trees that the distribution installed


def test_from_installed_headers(
    memory: Path, bus: Bus, root: Path, make_daemon: MakeDaemon, real_headers: RealHeaders, tmp_path: Path
) -> None:
    """Split as Debian splits them: they are copied, as no program must change what is precompiled."""
    source, build = root / "usr/src/common", root / "usr/src/flavour"
    for directory in (source, build):
        directory.mkdir(parents=True)
    subprocess.run(["tar", "-xf", real_headers.archive, "-C", source], check=True)
    for generated in ("include/generated", "arch/x86/include/generated"):
        (build / generated).parent.mkdir(parents=True, exist_ok=True)
        (source / generated).rename(build / generated)
    modules = root / "lib/modules" / real_headers.release
    (modules / "build").symlink_to("/usr/src/flavour")
    (modules / "source").symlink_to("/usr/src/common")
    daemon = make_daemon(bus, root=root, cache=memory / "cache")
    path, arguments, details = get_pch(bus, keep_headers=False)
    assert details["source"] == "tree"
    assert details["origin"] == f"{source} and {build}"
    assert compiled(arguments, tmp_path).returncode == 0
    assert get_pch(bus, keep_headers=False)[2]["fresh"] is False
    assert bus.call("GetHeaders", "sa{sv}", "", "0")[1]["source_tree"] == str(source)
    wait_until(lambda: not daemon.leftovers())  # what its module file has is extracted ahead
    # The package is upgraded, under the same name.
    autoconf = build / "include/generated/autoconf.h"
    new = autoconf.with_name("new")
    new.write_text(autoconf.read_text() + "#define CONFIG_OF_THE_UPGRADE 1\n")
    new.rename(autoconf)
    other, _, details = get_pch(bus)
    assert details["fresh"] is True
    assert other != path
    # The next daemon finds it again,
    daemon.kill()
    daemon.start()
    again, _, details = get_pch(bus)
    assert (again, details["fresh"]) == (other, False)
    # and notices what was edited between two looks: any header, also in place and of the same size.
    daemon.kill()
    types = source / "include/linux/types.h"
    types.write_text(types.read_text().replace("unsigned long", "unsigned char"))
    daemon.start()
    edited, _, details = get_pch(bus)
    assert details["fresh"] is True
    assert edited not in (path, other)
    types.write_text(types.read_text().replace("unsigned char", "unsigned long"))
    time.sleep(2.1)  # for so long what was found in a tree is believed
    assert get_pch(bus)[0] != edited


# Never a wrong one


@pytest.mark.parametrize("kept", [True, False])
def test_a_damaged_one_is_made_again(bus: Bus, daemon: Daemon, tmp_path: Path, kept: bool) -> None:
    path, _, _ = get_pch(bus, keep_headers=kept)
    with open(path, "r+b") as file:  # the same size
        file.seek(10_000)
        file.write(b"damage")
    intact, problems = bus.call("Verify", "sa{sv}", "", "0")
    assert not intact
    assert "headers.pch: changed" in problems[0]
    again, arguments, details = get_pch(bus, keep_headers=kept)
    assert details["fresh"] is True
    assert compiled(arguments, tmp_path).returncode == 0
    assert daemon.leftovers() == []
    assert again == path


def test_a_damaged_one_is_noticed_after_a_restart(bus: Bus, daemon: Daemon) -> None:
    path, _, _ = get_pch(bus)
    daemon.kill()
    with open(path, "r+b") as file:
        file.seek(10_000)
        file.write(b"damage")
    daemon.start()
    assert get_pch(bus)[2]["fresh"] is True


def test_a_deleted_one_is_made_again(bus: Bus, daemon: Daemon) -> None:
    path, _, _ = get_pch(bus)
    shutil.rmtree(Path(path).parent)
    assert get_pch(bus)[2]["fresh"] is True
    assert Path(path).exists()


def test_the_same_headers_from_another_file(bus: Bus, daemon: Daemon, host: ServedHost) -> None:
    path, _, _ = get_pch(bus)
    host.show(host.archive.read_bytes())
    again, _, details = get_pch(bus)
    assert (again, details["fresh"]) == (path, False)


def test_other_headers_of_the_same_release(bus: Bus, daemon: Daemon, host: ServedHost) -> None:
    """A word of one header, at the same size."""
    path, _, _ = get_pch(bus)
    changed = FILES["include/linux/types.h"].replace(b"long long", b"long int ")
    host.show(make_kheaders(RELEASE, FILES | {"include/linux/types.h": changed}))
    again, _, details = get_pch(bus)
    assert details["fresh"] is True
    assert again != path


@pytest.fixture
def own_compiler(roots_own: Path) -> tuple[Path, Path]:
    """A copy of the newest compiler, to be changed, and a configuration with which it is the only one."""
    llvm, real = roots_own / "llvm", Path("/usr/bin", NEWEST).resolve().parents[1]
    (llvm / "bin").mkdir(parents=True)
    program = llvm / "bin/clang"
    shutil.copy(real / "bin/clang", program)
    shutil.copytree(real / "lib/clang", llvm / "lib/clang", symlinks=False)
    for library in (real / "lib").glob("libclang-cpp.so.*"):  # the loader looks there first
        shutil.copy(library, llvm / "lib")
    config = roots_own / "kheadersd.conf"
    config.write_text(f"[Compile]\nDirectories={llvm}/bin\n")
    return program, config


def upgrade(file: Path) -> None:
    """Under the same name, saying the same version."""
    new = file.with_name("new")
    more = b"// another" if file.suffix == ".h" else b"a patch release"
    new.write_bytes(file.read_bytes() + more)
    new.chmod(0o755)
    new.rename(file)


@pytest.mark.parametrize("part", ["bin/clang", "lib/libclang-cpp.so.*", "lib/clang/*/include/stddef.h"])
def test_an_upgraded_compiler(
    memory: Path,
    bus: Bus,
    host: ServedHost,
    make_daemon: MakeDaemon,
    own_compiler: tuple[Path, Path],
    part: str,
) -> None:
    """Another patch release, of which one file differs: what it made is of no use any more, and goes."""
    program, config = own_compiler
    daemon = make_daemon(bus, root=host.root, cache=memory / "cache", arguments=[f"--config={config}"])
    path, _, details = get_pch(bus, compiler="clang")
    assert details["compiler"] == str(program)
    assert get_pch(bus, compiler="clang")[2]["fresh"] is False
    (changed,) = program.parents[1].glob(part)
    upgrade(changed)
    again, _, other = get_pch(bus, compiler="clang")
    assert other["fresh"] is True
    assert again != path
    bus.call("Prune", "a{sv}", "0")
    assert not Path(path).exists()
    assert Path(again).exists()
    assert daemon.leftovers() == []


def test_a_name_that_leads_to_another_compiler(
    memory: Path, bus: Bus, host: ServedHost, make_daemon: MakeDaemon, roots_own: Path
) -> None:
    """As alternatives are switched: what both say of themselves may be the same."""
    others = [name for name in COMPILERS if is_there(name)]
    if len(others) < 2:
        pytest.skip("there is only one compiler")
    link = roots_own / "clang"
    real = [Path("/usr/bin", name).resolve() for name in others]
    link.symlink_to(real[0])
    config = roots_own / "kheadersd.conf"
    config.write_text(f"[Compile]\nDirectories={roots_own} {real[0].parent} {real[1].parent}\n")
    make_daemon(bus, root=host.root, cache=memory / "cache", arguments=[f"--config={config}"])
    first = get_pch(bus, headers=(), compiler=str(link))
    assert first[2]["compiler"] == str(real[0])
    assert get_pch(bus, headers=(), compiler=str(link))[2]["fresh"] is False
    link.unlink()
    link.symlink_to(real[1])
    time.sleep(0.2)  # the daemon looks ten times a second
    second = get_pch(bus, headers=(), compiler=str(link))
    assert second[2]["compiler"] == str(real[1])
    assert second[0] != first[0]


def test_a_compiler_upgraded_while_it_compiles(
    memory: Path, bus: Bus, root: Path, make_daemon: MakeDaemon, own_compiler: tuple[Path, Path]
) -> None:
    program, config = own_compiler
    daemon = make_daemon(bus, root=root, cache=memory / "cache", arguments=[f"--config={config}"])
    bus.call("GetHeaders", "sa{sv}", "", "0")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asking = pool.submit(get_pch, bus, "bpf-tracing", (), compiler="clang")
        wait_until(lambda: any(daemon.cache.glob(".staging-*/headers.pch")))
        upgrade(program)
        path, _, details = asking.result()
    # By the new one: that is what the key says.
    assert details["fresh"] is True
    assert daemon.leftovers() == []
    assert daemon.log.read_text().count("Compiled ") == 1
    assert bus.call("ListEntries")[0][0]["pch_count"] == 1
    assert get_pch(bus, "bpf-tracing", (), compiler="clang")[0] == path


# Bounds and refusals


@pytest.mark.parametrize(
    ("profile", "headers", "options", "why"),
    [
        ("none", (), {}, "there is no profile 'none'; there are "),
        ("../types", (), {}, "there is no profile '../types'"),
        ("bpf-core\n", (), {}, "there is no profile"),
        ("x" * 5000, (), {}, "there is no profile 'xxx"),
        ("bpf-core", ("../../etc/passwd.h",), {}, "is not the name of a header"),
        ("bpf-core", ("/etc/passwd.h",), {}, "is not the name of a header"),
        ("bpf-core", ("linux/../../x.h",), {}, "is not the name of a header"),
        ("bpf-core", ("linux/sched.h>\n#include </etc/shadow",), {}, "is not the name of a header"),
        ("bpf-core", ("linux/ -include x.h",), {}, "is not the name of a header"),
        ("bpf-core", ("linux/sched.h", "linux/sched.h"), {}, "more than once"),
        ("bpf-core", tuple(f"linux/x{n}.h" for n in range(65)), {}, "1 to 64 names"),
        ("types", ("linux/sched.h",), {}, "takes no list of headers"),
        ("bpf-core", FEW, {"compiler": ""}, "option 'compiler' is the name"),
        ("bpf-core", FEW, {"compiler": "clang -fplugin=/tmp/x.so"}, "names no compiler"),
        ("bpf-core", FEW, {"compiler": "../bin/clang"}, "names no compiler"),
        ("bpf-core", FEW, {"compiler": "/bin/sh"}, "is not used"),
        ("bpf-core", FEW, {"compiler": f"/usr/../usr/bin/{COMPILER}"}, "it is in none of"),
        ("bpf-core", FEW, {"compiler": "clang-99"}, "clang-99 is not installed"),
        ("bpf-core", FEW, {"nonsense": "x"}, "unknown option 'nonsense'"),
        ("bpf-core", FEW, {"keep_headers": "yes"}, "option 'keep_headers' is of type 'b'"),
    ],
)
def test_refusals(
    bus: Bus, daemon: Daemon, profile: str, headers: tuple[str, ...], options: dict[str, Any], why: str
) -> None:
    answer = get_pch(bus, profile, headers, **options)
    assert isinstance(answer, Refused)
    assert why in answer.message
    assert daemon.entries() == []
    assert daemon.leftovers() == []


def test_an_empty_list_is_not_the_profiles(bus: Bus, daemon: Daemon) -> None:
    answer = bus.call("GetPch", "ssa{sv}", "", "bpf-core", "1", "headers", "as", "0")
    assert "option 'headers' is empty" in answer.message


def test_headers_that_do_not_compile(bus: Bus, daemon: Daemon) -> None:
    answer = get_pch(bus, headers=("linux/no-such.h",))
    assert "cannot compile the headers" in answer.message
    assert "'linux/no-such.h' file not found" in answer.message
    assert bus.get("LastError")[0].endswith("CompileFailed")
    assert daemon.leftovers() == []
    assert bus.call("ListEntries")[0][0]["pch_count"] == 0


def test_who_may_have_what(bus: Bus, real_daemon: Daemon) -> None:
    """Every user gets named profiles, a caller's own list takes an authorisation; here no polkit runs."""
    named = ("GetPch", "ssa{sv}", "", "bpf-core", "1", "compiler", "s", COMPILER)
    own = ("GetPch", "ssa{sv}", "", "bpf-core", "2", *named[5:], "headers", "as", "1", *FEW)
    assert isinstance(bus.call(*own, user="nobody"), Refused)
    assert real_daemon.entries() == []
    assert bus.call(*named, user="nobody")[2]["fresh"] is True
    assert bus.call(*named, user="nobody")[2]["fresh"] is False
    assert get_pch(bus)[2]["fresh"] is True
    assert isinstance(bus.call(*own, user="nobody"), Refused)


@pytest.fixture
def keeps_two(memory: Path, bus: Bus, host: ServedHost, make_daemon: MakeDaemon, tmp_path: Path) -> Daemon:
    config = tmp_path / "kheadersd.conf"
    config.write_text("[Limits]\nMaxPCHs=2\n")
    return make_daemon(bus, root=host.root, cache=memory / "cache", arguments=[f"--config={config}"])


def test_there_are_not_too_many(bus: Bus, keeps_two: Daemon) -> None:
    paths = [get_pch(bus, headers=(name,))[0] for name in ("linux/types.h", "linux/list.h", "linux/kref.h")]
    assert [Path(path).exists() for path in paths] == [False, True, True]
    assert bus.call("ListEntries")[0][0]["pch_count"] == 2


def test_an_ordinary_user_pushes_none_out_that_is_used(bus: Bus, keeps_two: Daemon) -> None:
    """Not even after a restart; nor ever those that such a user cannot have made again."""
    others = [name for name in COMPILERS if is_there(name) and name != COMPILER]

    def named(compiler: str) -> Path:
        asked = ("GetPch", "ssa{sv}", "", "bpf-core", "1", "compiler", "s", compiler)
        answer = bus.call(*asked, user="nobody")
        assert not isinstance(answer, Refused), answer
        return Path(answer[0])

    def not_used_for_hours(*pchs: Path) -> None:
        """As the next daemon finds them."""
        keeps_two.kill()
        hours_ago = time.time() - 4 * 3600
        for pch in pchs:
            os.utime(pch.parent / "record.json", (hours_ago, hours_ago))
        keeps_two.start()

    own = [Path(get_pch(bus, headers=(name,))[0]) for name in ("linux/list.h", "linux/kref.h")]
    not_used_for_hours(*own)
    pchs = [*own, named(COMPILER)]
    assert all(pch.exists() for pch in pchs)
    not_used_for_hours()
    if others:
        pchs.append(named(others[0]))
        assert all(pch.exists() for pch in pchs)
        not_used_for_hours(pchs[2])
    if len(others) > 1:
        pchs.append(named(others[1]))
        assert [pch.exists() for pch in pchs] == [True, True, False, True, True]
    # Root's request makes room.
    new = Path(get_pch(bus, headers=("linux/types.h",))[0])
    assert new.exists()
    assert bus.call("ListEntries")[0][0]["pch_count"] == 2


def test_a_full_disk(memory: Path, bus: Bus, host: ServedHost, make_daemon: MakeDaemon) -> None:
    disk = memory / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,size=4m", "tmpfs", disk], check=True)
    try:
        daemon = make_daemon(bus, root=host.root, cache=disk / "cache")
        bus.call("GetHeaders", "sa{sv}", "", "0")
        with (disk / "filler").open("wb") as filler:
            filler.truncate()
            os.posix_fallocate(filler.fileno(), 0, os.statvfs(disk).f_bavail * 4096 - 8 * 4096)
        answer = get_pch(bus)
        assert isinstance(answer, Refused)
        assert "the file system of the cache became full" in answer.message
        assert bus.get("LastError")[0].endswith("Error.NoSpace")
        assert daemon.leftovers() == []
        (disk / "filler").unlink()
        assert get_pch(bus)[2]["fresh"] is True
        assert daemon.stop() == 0
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_the_one_that_is_used_stays(bus: Bus, keeps_two: Daemon) -> None:
    used, _, _ = get_pch(bus, headers=("linux/types.h",))
    get_pch(bus, headers=("linux/list.h",))
    get_pch(bus, headers=("linux/types.h",))
    get_pch(bus, headers=("linux/kref.h",))
    assert Path(used).exists()


def test_a_small_cache_keeps_those_of_the_last_hour(
    memory: Path, bus: Bus, host: ServedHost, make_daemon: MakeDaemon, tmp_path: Path
) -> None:
    config = tmp_path / "kheadersd.conf"
    config.write_text("[Cache]\nMaxSize=1K\n")
    daemon = make_daemon(bus, root=host.root, cache=memory / "cache", arguments=[f"--config={config}"])
    old, recent = (Path(get_pch(bus, headers=(name,))[0]) for name in ("linux/types.h", "linux/list.h"))
    assert bus.call("Prune", "a{sv}", "0") == [[], 0]
    assert daemon.stop() == 0
    record = old.parent / "record.json"
    known = json.loads(record.read_text())
    record.write_text(json.dumps({**known, "made_at": known["made_at"] - 2 * 3600 * 10**6}))
    two_hours_ago = time.time() - 2 * 3600
    os.utime(record, (two_hours_ago, two_hours_ago))
    daemon.start()
    assert bus.call("Prune", "a{sv}", "0")[0] == []
    assert (old.exists(), recent.exists()) == (False, True)
    assert bus.call("ListEntries")[0][0]["pch_count"] == 1
    assert daemon.leftovers() == []


def test_one_that_cannot_be_removed_is_not_forgotten(
    memory: Path, bus: Bus, host: ServedHost, make_daemon: MakeDaemon
) -> None:
    disk = memory / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", disk], check=True)
    try:
        daemon = make_daemon(bus, root=host.root, cache=disk / "cache")
        path = Path(get_pch(bus)[0])
        wait_until(lambda: any(daemon.cache.glob("*/durable")))
        with path.open("r+b") as file:
            file.seek(10_000)
            file.write(b"damage")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        # It is not handed out, and takes its space still.
        assert isinstance(get_pch(bus), Refused)
        assert f"cannot remove {path.parent}: Read-only file system" in daemon.log.read_text()
        assert bus.call("ListEntries")[0][0]["pch_count"] == 1
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        assert get_pch(bus)[2]["fresh"] is True
        assert daemon.stop() == 0
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_one_that_is_damaged_harms_no_other(bus: Bus, daemon: Daemon, host: ServedHost) -> None:
    good, _, _ = get_pch(bus, keep_headers=False)
    bad, _, _ = get_pch(bus, headers=("linux/list.h",), keep_headers=False)
    host.archive.unlink()
    Path(bad).write_bytes(b"damage")
    intact, problems = bus.call("Verify", "sa{sv}", "", "0")
    assert not intact
    assert "headers.pch: changed" in problems[0]
    assert get_pch(bus, keep_headers=False)[0] == good
    assert bus.call("Verify", "sa{sv}", "", "0") == [True, []]


@pytest.mark.parametrize("keep", [True, False])
def test_killed_while_it_compiles(bus: Bus, real_daemon: Daemon, keep: bool) -> None:
    bus.call("GetHeaders", "sa{sv}", "", "0")
    asking = subprocess.Popen(
        ["busctl", f"--address={bus.address}", "call", "org.kheaders.Provide", "/org/kheaders/Provide",
         "org.kheaders.Provide", "GetPch", "ssa{sv}", "", "bpf-tracing", "2", "compiler", "s", COMPILER,
         "keep_headers", "b", str(keep).lower()],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_until(lambda: any(real_daemon.cache.glob(".staging-*/headers.pch")))
    real_daemon.kill()
    asking.wait()
    real_daemon.start()
    assert real_daemon.leftovers() == []
    assert get_pch(bus, "bpf-core", (), keep_headers=keep)[2]["headers_kept"] is keep


async def test_whoever_leaves_stops_the_compiler(bus: Bus, real_daemon: Daemon) -> None:
    import asyncio

    bus.call("GetHeaders", "sa{sv}", "", "0")
    async with client_on(bus) as client:
        options = {"compiler": Variant("s", COMPILER)}
        asking = asyncio.create_task(client.call("GetPch", "ssa{sv}", "", "bpf-tracing", options))
        await eventually(lambda: any(real_daemon.cache.glob(".staging-*/headers.pch")))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await eventually(lambda: not any(real_daemon.cache.glob(".staging-*")))
    children = f"/proc/{real_daemon.pid}/task/{real_daemon.pid}/children"
    await eventually(lambda: not Path(children).read_text())
    assert bus.call("ListEntries")[0][0]["pch_count"] == 0


# The administrator's profiles


def test_the_shipped_ones_are_installed() -> None:
    names = {path.stem for path in (REPOSITORY / "kheadersd/data/profiles").glob("*.toml")}
    assert {"bpf-core", "bpf-tracing", "host-tracing", "types"} <= names
