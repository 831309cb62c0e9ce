"""Compilers: which are accepted, and when one is another."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from pathlib import Path

import pytest

from kheadersd.config import Config
from kheadersd.errors import InvalidArgs, KheadersError, NotAvailable, Timeout
from kheadersd.pch.compiler_files import checked
from kheadersd.pch.compiler_run import failure
from kheadersd.pch.compilers import Compiler, Compilers
from kheadersd.sandbox.command import Command, Finished
from kheadersd.sandbox.confined_child import run_confined
from kheadersd.sandbox.runners import COMPILE_ENVIRONMENT
from tests.support.needs import needs_root
from tests.support.objects import has_run_path

pytestmark = needs_root("only root has compilers that are root's")

_SAYS = """\
#!/bin/sh
cat >&2 <<END
Debian clang version 16.0.6 (15)
Target: x86_64-pc-linux-gnu
 "{program}" "-cc1" "-triple" "x" "-resource-dir" "{resource}" "-o" "-"
END
{more}
"""
_SHELL = Path("/bin/sh").resolve()
_CLANG = next(filter(None, map(shutil.which, ("clang-19", "clang-16", "clang"))), None)

# The build of a package has none.
needs_clang = pytest.mark.skipif(_CLANG is None, reason="there is no clang")


@pytest.fixture
def root(roots_own: Path) -> Path:
    return roots_own


@pytest.fixture
def tree(root: Path) -> Path:
    """A real clang that may be changed: its program and some of its headers, with the system's libraries."""
    return real_tree(root / "llvm")


def real_tree(top: Path) -> Path:
    if _CLANG is None:
        pytest.skip("there is no clang")
    program = Path(_CLANG).resolve()
    (resource,) = program.parent.parent.glob("lib/clang/*")
    (top / "bin").mkdir(parents=True)
    shutil.copy(program, top / "bin/clang")
    headers = top / "lib/clang" / resource.name / "include"
    headers.mkdir(parents=True)
    for name in ("stddef.h", "stdint.h", "limits.h"):
        shutil.copy(resource / "include" / name, headers)
    return top


def header(tree: Path) -> Path:
    """One of its own."""
    (found,) = tree.glob("lib/clang/*/include/stddef.h")
    return found


def said(root: Path, name: str = "clang", **values: str) -> Path:
    """A script that says it is a clang."""
    (root / "include").mkdir(exist_ok=True)
    (root / "include/stddef.h").touch()
    script = root / name
    script.write_text(_SAYS.format(**{"program": str(script), "resource": str(root), "more": "", **values}))
    script.chmod(0o755)
    return script


def compilers(*directories: Path, thorough_seconds: float = 0) -> Compilers:
    return Compilers(directories, run_confined, thorough_seconds=thorough_seconds)


async def digest(found: Compilers, wanted: str) -> str:
    return (await found.find(wanted)).digest


# The distribution's


@needs_clang
async def test_the_distributions() -> None:
    system = Compilers(Config().compiler_directories, run_confined)
    newest = await system.find("")
    assert newest.name == f"clang-{newest.major}"
    assert newest.version.startswith(f"{newest.major}.")
    assert (newest.resource / "include/stddef.h").exists()
    assert "libLLVM" in " ".join(newest.identities)
    assert "libclang-cpp" in " ".join(newest.identities)
    assert newest.path.resolve() == newest.path
    assert await system.find(newest.name) is newest
    assert await system.find(str(newest.path)) is newest
    assert system.is_current(newest)


@needs_clang
async def test_several_side_by_side() -> None:
    names = [name for name in (f"clang-{major}" for major in range(14, 40)) if shutil.which(name)]
    system = Compilers(Config().compiler_directories, run_confined)
    found = await asyncio.gather(*(system.find(name) for name in names))
    assert [one.name for one in found] == names
    assert len({one.digest for one in found}) == len({one.path for one in found}) == len(names)
    assert await system.find("") == found[-1]
    # Another one, and the same answers.
    again = Compilers(Config().compiler_directories, run_confined)
    assert [await again.find(name) for name in names] == found


@needs_clang
async def test_what_is_known_costs_little() -> None:
    system = Compilers(Config().compiler_directories, run_confined)
    await system.find("")
    best = 1.0
    for _ in range(20):
        start = time.perf_counter()
        await system.find("")
        best = min(best, time.perf_counter() - start)
    assert best < 1e-3


# Names and paths


@pytest.mark.parametrize(
    "wanted",
    [
        *("gcc", "clang++", "clang-", "clang-160", "clang-16 ", "clang-16\n", "-clang", "clang -v", "Clang"),
        *("./clang", "bin/clang", "../clang", "~/clang", " /usr/bin/clang", "clang;id", "clang\0", "\0", " "),
        *("/usr/bin/clang\n", "/usr/bin/clang\0", "/usr/bin/\udcff", "/" + "a" * 5000, "clang-\u0661\u0666"),
    ],
)
async def test_what_is_no_name(wanted: str) -> None:
    with pytest.raises(InvalidArgs):
        await Compilers(Config().compiler_directories, run_confined).find(wanted)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ("/usr/bin/true", "has not the name of a clang"),
        ("/bin/true", "is in none of"),
        ("/etc/passwd", "is in none of"),
        ("/", "is in none of"),
        ("/usr/bin", "is in none of"),
        ("//usr/bin/../../etc/passwd", "is in none of"),
        ("/usr/bin/../bin/clang", "is in none of"),
        ("/usr/lib/llvm-16/more/bin/clang", "is in none of"),
        ("/usr/lib/llvm-*/more/../bin/clang", "is in none of"),
        ("/proc/self/exe", "is in none of"),
        ("/tmp/clang", "is in none of"),
    ],
)
async def test_what_is_no_compilers_path(wanted: str, why: str) -> None:
    with pytest.raises(InvalidArgs, match=why):
        await Compilers(Config().compiler_directories, run_confined).find(wanted)


async def test_what_is_not_there(root: Path) -> None:
    with pytest.raises(NotAvailable, match=rf"clang-99 is not installed in any of {root}.* Install"):
        await compilers(root, root / "nowhere", root / "no*").find("clang-99")
    with pytest.raises(NotAvailable, match=r"clang is not installed"):
        await compilers(root).find("")
    with pytest.raises(NotAvailable, match=rf"there is no compiler {root}/clang: No such file"):
        await compilers(root).find(f"{root}/clang")
    with pytest.raises(NotAvailable, match=r"Not a directory"):
        await compilers(Path("/etc/passwd")).find("/etc/passwd/clang")
    said(root, "clang-16")
    with pytest.raises(NotAvailable, match=r"clang-99 is not installed.*There are: clang-16"):
        await compilers(root).find("clang-99")


async def test_the_newest(root: Path) -> None:
    for name in ("clang", "clang-9", "clang-16"):
        said(root, name)
    found = compilers(root)
    assert (await found.find("")).path.name == "clang-16"
    said(root, "clang-17")
    assert (await found.find("")).path.name == "clang-17"
    for name in ("clang-9", "clang-16", "clang-17"):
        (root / name).unlink()
    assert (await found.find("")).path.name == "clang"


async def test_a_directory_that_comes_later(root: Path) -> None:
    found = compilers(root / "llvm-*/bin")
    with pytest.raises(NotAvailable):
        await found.find("clang")
    (root / "llvm-2/bin").mkdir(parents=True)
    said(root / "llvm-2/bin")
    assert (await found.find("clang")).path == root / "llvm-2/bin/clang"
    # The first one counts, as in any search path.
    (root / "llvm-1/bin").mkdir(parents=True)
    said(root / "llvm-1/bin")
    assert (await found.find("clang")).path == root / "llvm-1/bin/clang"


async def test_links_of_alternatives(root: Path) -> None:
    """As /usr/local/bin/clang leads to /etc/alternatives/clang, and that to /usr/bin/clang-16."""
    for name in ("bin", "local", "alternatives", "llvm-16/bin", "llvm-17/bin"):
        (root / name).mkdir(parents=True)
    for major in (16, 17):
        said(root / f"llvm-{major}/bin")
        (root / f"bin/clang-{major}").symlink_to(f"../llvm-{major}/bin/clang")
    (root / "alternatives/clang").symlink_to(root / "bin/clang-16")
    (root / "local/clang").symlink_to(root / "alternatives/clang")
    found = compilers(root / "local", root / "bin", root / "llvm-*/bin")
    wanted = ("clang", f"{root}/local/clang", "clang-16")
    assert {(await found.find(name)).path for name in wanted} == {root / "llvm-16/bin/clang"}
    (root / "alternatives/new").symlink_to(root / "bin/clang-17")
    (root / "alternatives/new").rename(root / "alternatives/clang")
    assert found.leads_to("clang") is found.leads_to(f"{root}/local/clang") is None
    assert {(await found.find(name)).path for name in wanted[:2]} == {root / "llvm-17/bin/clang"}


# Ccache

_CCACHE = Path(shutil.which("ccache") or "/usr/bin/ccache")
needs_ccache = pytest.mark.skipif(not _CCACHE.exists(), reason="ccache is not installed")


@pytest.fixture
def masquerade(root: Path) -> Path:
    """A directory of links to ccache, as /usr/lib/ccache and many a /usr/local/bin are."""
    (root / "masquerade").mkdir()
    for name in ("clang", "clang-16", "gcc"):
        (root / "masquerade" / name).symlink_to(_CCACHE)
    return root / "masquerade"


@needs_ccache
@pytest.mark.parametrize("wanted", ["clang-16", "{0}/clang-16", "clang", "{0}/clang", ""])
async def test_a_link_to_ccache(root: Path, masquerade: Path, wanted: str) -> None:
    """It stands for the compiler of its name."""
    (root / "bin").mkdir()
    said(root / "bin", "clang-16")
    (root / "bin/clang").symlink_to("clang-16")
    found = compilers(masquerade, root / "bin")
    wanted = wanted.format(masquerade)
    compiler = await found.find(wanted)
    assert compiler.path == root / "bin/clang-16"
    assert str(_CCACHE) not in compiler.identities
    # The link becomes a compiler.
    assert await found_to_lead(found, wanted) == compiler.path
    said(root, "new", program=str(_SHELL)).rename(masquerade / "clang-16")
    (masquerade / "clang").unlink()
    (masquerade / "clang").symlink_to("clang-16")
    assert found.leads_to(wanted) is None
    assert (await found.find(wanted)).path == masquerade / "clang-16"


@needs_ccache
async def test_ccache_without_a_compiler(masquerade: Path) -> None:
    for wanted in ("clang-16", f"{masquerade}/clang-16", "clang", "", f"{masquerade}/gcc"):
        with pytest.raises(
            InvalidArgs, match=rf"^{masquerade}/\S+ is not used: it leads to {_CCACHE}, which runs"
        ):
            await compilers(masquerade).find(wanted)


@needs_ccache
@pytest.mark.parametrize("how", ["script", "copy"])
async def test_a_program_that_runs_ccache(root: Path, how: str) -> None:
    """The compiler that runs in the end is known, and ccache leaves nothing."""
    program = root / "clang"
    if how == "copy":
        shutil.copy(_CCACHE, program)
    else:
        program.write_text(f'#!/bin/sh\nexport CCACHE_DIR={root}/cache\nexec {_CCACHE} clang "$@"\n')
        program.chmod(0o755)
    (root / "cache").mkdir()
    (root / "cache").chmod(0o777)
    found = compilers(root)
    compiler = await found.find("clang")
    real = checked(Path("/usr/bin/clang"))
    assert compiler.path == program
    assert {str(program), str(real)} <= compiler.identities.keys()
    assert compiler.resource.is_relative_to(real.parent.parent)
    assert found.is_current(compiler)
    # Another compiler of that name would be another one.
    assert {"/usr/bin", "/etc/alternatives"} <= compiler.identities.keys()
    text = b"int compiled;\n"
    command = Command([str(program), "-c", "-x", "c", "-", "-o", "-"], COMPILE_ENVIRONMENT, 30, stdin=text)
    assert (await run_confined(command)).status == 0
    source = root / "source.c"
    source.write_bytes(text)
    command = Command([str(program), "-c", str(source), "-o", "-"], COMPILE_ENVIRONMENT, 30)
    assert (await run_confined(command)).status == 0
    assert os.listdir(root / "cache") == []


# Whose it is


async def test_a_link_to_something_else(root: Path) -> None:
    (root / "clang").symlink_to("/bin/true")
    with pytest.raises(
        InvalidArgs, match=rf"{root}/clang is not used: it leads to /usr/bin/true, which is in"
    ):
        await compilers(root).find("clang")
    with pytest.raises(InvalidArgs, match=r"has not the name of a clang"):
        await compilers(root, Path("/usr/bin")).find(f"{root}/clang")
    (root / "clang").unlink()
    (root / "clang").symlink_to("clang")
    with pytest.raises(InvalidArgs, match=r"more than 40 links"):
        await compilers(root).find("clang")
    (root / "clang").unlink()
    (root / "clang").symlink_to("/tmp/clang")
    with pytest.raises(InvalidArgs, match=r"others than root can write to /tmp"):
        await compilers(root).find("clang")


async def test_a_link_from_elsewhere(root: Path) -> None:
    (root / "bin").mkdir()
    said(root / "bin", "clang-16")
    (root / "other").symlink_to("bin/../bin/./clang-16")
    with pytest.raises(InvalidArgs, match=rf"^{root}/other is not used: as it is written, it is in none of"):
        await compilers(root / "bin").find(f"{root}/other")
    # The directory itself may be a link: then a compiler is also found by what it is called without it.
    (root / "link").symlink_to("bin")
    found = compilers(root / "link")
    for name in ("link", "bin"):
        assert (await found.find(f"{root}/{name}/clang-16")).path == root / "bin/clang-16"


async def test_a_path_elsewhere_is_not_looked_at(root: Path) -> None:
    """Whether it exists is not told; and a file system that never answers is not asked."""
    (root / "bin").mkdir()
    said(root / "bin")
    (root / "away").mkdir()
    said(root / "away")
    said_of = set()
    for name in ("away/clang", "away/none", "none/clang", "bin/../away/clang", "bin/../none/clang"):
        with pytest.raises(InvalidArgs) as caught:
            await compilers(root / "bin").find(f"{root}/{name}")
        said_of.add(caught.value.message.replace(name, ""))
    assert len(said_of) == 1


async def test_a_path_is_looked_at_in_a_thread(root: Path) -> None:
    said(root)
    found = compilers(root)
    beats = 0

    async def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(0)

    beating = asyncio.create_task(beat())
    await asyncio.sleep(0)
    before = beats
    with pytest.raises(NotAvailable):
        await found.find(f"{root}/clang-16")
    assert beats > before
    beating.cancel()


async def test_where_a_name_leads_now(root: Path) -> None:
    for name in ("clang-16", "clang-17"):
        said(root, name)
    (root / "clang").symlink_to("clang-16")
    found = compilers(root)
    wanted = ("clang", f"{root}/clang", "clang-16", "")
    assert [found.leads_to(name) for name in wanted] == [None] * 4
    leads = [await found_to_lead(found, name) for name in wanted]
    assert leads == [root / "clang-16"] * 3 + [root / "clang-17"]
    # A switched link.
    (root / "new").symlink_to("clang-17")
    (root / "new").rename(root / "clang")
    assert found.leads_to("clang") is None
    assert await found_to_lead(found, "clang") == root / "clang-17"
    # A newer one is installed.
    await found_to_lead(found, "")
    said(root, "clang-18")
    assert found.leads_to("") is None
    assert await found_to_lead(found, "") == root / "clang-18"


async def found_to_lead(found: Compilers, wanted: str) -> Path | None:
    """Where it leads once it was found; tried again, since other tests make directories in /srv meanwhile."""
    for _ in range(20):
        compiler = await found.find(wanted)
        if (path := found.leads_to(wanted)) is not None:
            assert path == compiler.path
            return path
    return None


@needs_clang
async def test_where_the_distributions_lead_costs_little() -> None:
    system = Compilers(Config().compiler_directories, run_confined)
    newest = await system.find("")
    best = 1.0
    for _ in range(50):
        start = time.perf_counter()
        assert system.leads_to("") == newest.path
        best = min(best, time.perf_counter() - start)
    assert best < 1e-2


async def test_a_link_that_leads_to_another_one(root: Path) -> None:
    for name in ("clang-16", "clang-17"):
        said(root, name)
    (root / "clang").symlink_to("clang-16")
    found = compilers(root)
    before = await found.find("clang")
    (root / "new").symlink_to("clang-17")
    (root / "new").rename(root / "clang")
    after = await found.find("clang")
    assert (before.path.name, after.path.name) == ("clang-16", "clang-17")
    assert await found.find("clang-16") == before


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o1777])
@pytest.mark.parametrize("which", ["clang", "."])
async def test_others_can_write(root: Path, mode: int, which: str) -> None:
    (root / "bin").mkdir()
    said(root / "bin")
    (root / "bin" / which).chmod(mode)
    where = "it" if which == "clang" else f"{root}/bin"
    with pytest.raises(
        InvalidArgs, match=rf"{root}/bin/clang is not used: others than root can write to {where}$"
    ):
        await compilers(root / "bin").find("clang")


@pytest.mark.parametrize("which", ["bin", "bin/clang", "link"])
async def test_another_user_owns_it(root: Path, which: str) -> None:
    (root / "bin").mkdir()
    said(root / "bin")
    (root / "link").symlink_to("bin")
    os.chown(root / which, 65534, 0, follow_symlinks=False)
    with pytest.raises(InvalidArgs, match=r"belongs to the user 65534, and not to root$"):
        await compilers(root / "link", root / "bin").find(f"{root}/link/clang")


async def test_who_may_write_later(root: Path) -> None:
    (root / "bin").mkdir()
    script = said(root / "bin")
    found = compilers(root / "bin")
    before = await found.find("clang")
    os.chmod(root, 0o777)
    with pytest.raises(InvalidArgs, match=rf"can write to {root}$"):
        await found.find("clang")
    os.chmod(root, 0o755)
    script.chmod(0o777)
    assert not found.is_current(before)
    with pytest.raises(InvalidArgs):
        await found.find("clang")


async def test_no_program(root: Path) -> None:
    (root / "clang").mkdir()
    with pytest.raises(InvalidArgs, match=r"no program that all users may run"):
        await compilers(root).find("clang")
    (root / "clang").rmdir()
    os.mkfifo(root / "clang")
    with pytest.raises(InvalidArgs, match=r"no program that all users may run"):
        await compilers(root).find("clang")
    (root / "clang").unlink()
    said(root).chmod(0o744)
    with pytest.raises(InvalidArgs, match=r"no program that all users may run"):
        await compilers(root).find("clang")


async def test_parts_of_it_that_others_can_write_to(root: Path) -> None:
    said(root, program="/tmp/clang")
    with pytest.raises(KheadersError, match=r"/tmp"):
        await compilers(root).find("clang")
    said(root, resource="/tmp")
    with pytest.raises(KheadersError, match=r"/tmp"):
        await compilers(root).find("clang")
    said(root)
    (root / "include/stddef.h").chmod(0o666)
    with pytest.raises(InvalidArgs, match=rf"{root}/include/stddef.h is not used"):
        await compilers(root).find("clang")


@pytest.mark.parametrize("values", [{"program": "clang"}, {"resource": "include"}, {"program": "/srv/none"}])
async def test_parts_of_it_that_are_not_there(root: Path, values: dict[str, str]) -> None:
    said(root, **values)
    with pytest.raises(NotAvailable, match=r"a file of the compiler's"):
        await compilers(root).find("clang")


# What it does


async def test_one_that_hangs(root: Path) -> None:
    said(root, more="sleep 100")
    with pytest.raises(Timeout, match=rf"{root}/clang took longer than 0.5 s"):
        await Compilers([root], run_confined, ask_seconds=0.5).find("clang")


async def test_one_that_prints_much(root: Path) -> None:
    said(root, more="head -c 100000000 /dev/zero; head -c 100000000 /dev/zero >&2")
    assert (await compilers(root).find("clang")).version == "16.0.6"
    said(root, resource="x" * 100_000)
    with pytest.raises(NotAvailable, match=r"does not print what it runs"):
        await compilers(root).find("clang")


async def test_one_that_eats_memory(root: Path) -> None:
    said(root, more="exec dd if=/dev/zero of=/dev/null bs=3G count=1")
    with pytest.raises(NotAvailable, match=r"does not work: .*: it needs more than 2048 MiB"):
        await compilers(root).find("clang")
    said(root, more="kill -9 $$")
    with pytest.raises(NotAvailable, match=r"it was killed, as it is when it needs more than 2048 MiB"):
        await compilers(root).find("clang")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("#!/bin/sh\necho gcc version 12.2.0 >&2\n", InvalidArgs),
        ("#!/bin/sh\nexit 0\n", InvalidArgs),
        ("#!/bin/sh\necho boom >&2; exit 1\n", NotAvailable),
        ("#!/bin/sh\necho clang version 16.0.6 >&2\n", NotAvailable),
        ("#!/nonexistent\n", NotAvailable),
        ("", InvalidArgs),
        ("\x7fELF and no more", NotAvailable),
        ("\x7fELF\2" + "\x7f" * 1000, NotAvailable),
    ],
)
async def test_one_that_is_none(root: Path, text: str, error: type[KheadersError]) -> None:
    (root / "clang").write_text(text)
    (root / "clang").chmod(0o755)
    with pytest.raises(error, match=rf"{root}/clang"):
        await compilers(root).find("clang")


async def test_whoever_gives_up_leaves_nothing(root: Path) -> None:
    said(root, more="sleep 100")
    found = compilers(root)
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(found.find("clang"), 0.5)
    said(root)
    assert (await found.find("clang")).major == 16
    await found.close()


async def test_who_ask_at_the_same_time(root: Path) -> None:
    said(root, more=f"echo >>{root}/asked; sleep 0.3")
    (root / "asked").touch()
    (root / "asked").chmod(0o666)
    found = compilers(root)
    first, *others = await asyncio.gather(*(found.find(wanted) for wanted in ("clang", "", f"{root}/clang")))
    assert all(other is first for other in others)
    assert (root / "asked").read_text() == "\n"


# Which one it is


async def changed(found: Compilers, before: Compiler) -> Compiler:
    """What is found instead of it, which must be another one."""
    assert not found.is_current(before)
    after = await found.find("clang")
    assert after.digest != before.digest
    assert (after.name, after.path, after.version) == (before.name, before.path, before.version)
    assert found.is_current(after)
    assert not found.is_current(before)
    return after


async def test_a_program_replaced_under_the_same_name_and_version(tree: Path) -> None:
    found = compilers(tree / "bin")
    before = await found.find("clang")
    program = tree / "bin/clang"
    # As a package manager does it; and then in place, with the times and the size that it had.
    shutil.copy(program, tree / "bin/new")
    with (tree / "bin/new").open("ab") as file:
        file.write(b"x")
    (tree / "bin/new").rename(program)
    after = await changed(found, before)
    status = program.stat()
    with program.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"y")
    os.utime(program, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert program.stat().st_mtime_ns == status.st_mtime_ns
    await changed(found, after)


async def test_a_header_of_its_own(tree: Path) -> None:
    found = compilers(tree / "bin")
    before = await found.find("clang")
    stddef = header(tree)
    stddef.write_bytes(stddef.read_bytes().replace(b"NULL", b"null"))
    after = await changed(found, before)
    (stddef.parent / "more.h").touch()
    after = await changed(found, after)
    (stddef.parent / "more.h").unlink()
    await changed(found, after)


async def test_headers_behind_links(tree: Path) -> None:
    stddef = header(tree)
    (tree / "more").mkdir()
    for name in "ab":
        (tree / "more" / name).write_text(name)
        (stddef.parent / f"{name}.h").symlink_to(tree / "more" / name)
    (stddef.parent / "sub").symlink_to(tree / "more")
    found = compilers(tree / "bin")
    before = await found.find("clang")
    (tree / "more/a").write_text("c")
    after = await changed(found, before)
    for name, other in ("ab", "ba"):
        (stddef.parent / f"{name}.h").unlink()
        (stddef.parent / f"{name}.h").symlink_to(tree / "more" / other)
    await changed(found, after)


async def test_a_header_replaced_is_noticed_at_once(tree: Path) -> None:
    found = compilers(tree / "bin", thorough_seconds=1000)
    before = await found.find("clang")
    stddef = header(tree)
    shutil.copy(stddef, stddef.with_suffix(".new"))
    with stddef.with_suffix(".new").open("a") as file:
        file.write("// another")
    stddef.with_suffix(".new").rename(stddef)
    await changed(found, before)


async def test_a_library_that_comes_first(tree: Path) -> None:
    """The loader looks beside the program before it looks elsewhere."""
    found = compilers(tree / "bin")
    before = await found.find("clang")
    library = next(Path(path) for path in before.identities if "/libgcc_s.so.1" in path)
    shutil.copy(library, tree / "lib")
    if not has_run_path(tree / "bin/clang"):  # as Debian's in sid
        assert (await found.find("clang")).digest == before.digest
        return
    after = await changed(found, before)
    assert f"{tree}/lib/{library.name}" in after.identities
    with (tree / "lib" / library.name).open("ab") as file:
        file.write(b"x")
    await changed(found, after)


async def test_a_configuration_file(tree: Path) -> None:
    found = compilers(tree / "bin")
    before = await found.find("clang")
    (tree / "bin/clang.cfg").write_text("-DA\n")
    assert not found.is_current(before)
    after = await found.find("clang")
    if after.major < 16:  # reads none by itself
        assert after.digest == before.digest
    else:
        assert after.digest != before.digest


async def test_the_same_again(tree: Path) -> None:
    found = compilers(tree / "bin")
    before = await found.find("clang")
    os.utime(tree / "bin/clang")
    assert not found.is_current(before)
    after = await found.find("clang")
    assert after == before
    assert found.is_current(after)


async def test_elsewhere_it_is_another(root: Path) -> None:
    trees = [real_tree(root / name) for name in ("a", "b")]
    digests = {await digest(compilers(tree / "bin"), "clang") for tree in trees}
    assert len(digests) == 2


async def test_a_script_around_a_compiler(root: Path, tree: Path) -> None:
    """The script, its interpreter and the compiler that it runs are known, however that is done."""
    (root / "bin").mkdir()
    script = root / "bin/clang"
    script.write_text(f'#!/bin/sh\nexec {tree}/bin/clang "$@"\n')
    script.chmod(0o755)
    found = compilers(root / "bin")
    before = await found.find("clang")
    assert before.path == script
    assert {str(script), f"{tree}/bin/clang", str(_SHELL)} <= before.identities.keys()
    assert before.resource.is_relative_to(tree)
    with (tree / "bin/clang").open("ab") as file:
        file.write(b"x")
    after = await changed(found, before)
    with script.open("a") as file:
        file.write("# another\n")
    await changed(found, after)


async def test_replaced_while_it_is_read(root: Path) -> None:
    said(root, more="sleep 0.5")
    found = compilers(root)
    finding = asyncio.create_task(found.find("clang"))
    await asyncio.sleep(0.2)
    said(root, "clang.new", program=f"{root}/clang").rename(root / "clang")
    with pytest.raises(NotAvailable, match=r"was replaced while it was read; try again"):
        await finding
    assert (await found.find("clang")).major == 16


def test_the_compilers_lines_are_long_enough() -> None:
    """What is wrong is named at the end of a line that begins with a path."""
    wrong = "error: use of undeclared identifier 'KASAN_SHADOW_SCALE_SHIFT'"
    line = f"/var/cache/kheaders/{'6.1.0' * 50}/include/linux/kasan.h:31:2: {wrong}"
    error = failure(Finished(1, "", f"In file included from x\n{line}\x1b[0m\n"), "it fails")
    assert error.message == f"it fails: {line}\\x1b[0m"
    error = failure(Finished(1, "", "error: " + "x" * 5000), "it fails")
    assert len(error.message) == len("it fails: ") + 1000
