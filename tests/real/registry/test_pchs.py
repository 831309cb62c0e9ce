"""One node makes files of headers and of BTF and pushes them, another takes them and makes none."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kheadersd.formats import oci
from kheadersd.repository import Repository
from tests.support.archives import make_kheaders
from tests.support.bcc import compiled, is_installed
from tests.support.clients import wait_until
from tests.support.file_artifacts import Pushing, push_file
from tests.support.kheaders import RealHeaders
from tests.support.needs import needs_root
from tests.support.oci_registry import Registry, SigningKey, credentials, skopeo
from tests.support.precompiling import COMPILERS, is_there
from tests.support.registry_nodes import Node, configuration, running_node
from tests.support.running import Refused
from tests.support.small_headers import FILES, RELEASE

pytestmark = [
    pytest.mark.slow,
    needs_root("for an /etc of its own"),
    pytest.mark.skipif(not any(map(is_there, COMPILERS)), reason="no clang of a known version is installed"),
]

COMPILER = next(filter(is_there, COMPILERS), "")
OTHER_COMPILER = next(filter(is_there, reversed(COMPILERS)), "")
RUNNING_BTF = Path("/sys/kernel/btf/vmlinux")
ARCHIVE = make_kheaders(RELEASE, FILES)
PROGRAM = """\
#include <linux/sched.h>
__attribute__((section("kprobe/do_exit"), used)) int traced(void *registers)
{
	return sizeof(struct task_struct);
}
char _license[] __attribute__((section("license"), used)) = "GPL";
"""


@dataclasses.dataclass
class Fleet:
    """A node that has precompiled and pushed, and then, with an empty cache, one that has nothing.

    A key covers the place of the headers, so that both have the same directories.

    Attributes:
        key: signs headers.
        pch_key: signs precompiled headers.
        pushed: what kheadersctl has told.
        pch: what the first node precompiled.
    """

    node: Node
    registry: Registry
    repository: Repository
    key: SigningKey
    pch_key: SigningKey
    pushed: Any = None
    pch: bytes = b""

    def push(self) -> None:
        self.node.host.show(ARCHIVE)
        path, _, _ = self.get()
        self.pch = Path(path).read_bytes()
        self.pushed = self.node.do("push", RELEASE, str(self.repository), "--pchs")

    def become_another(self, *settings: str) -> None:
        """Be a node without headers that trusts both keys, with other settings last."""
        node = self.node
        assert node.daemon.stop() == 0
        shutil.rmtree(node.daemon.cache)
        node.host.archive.unlink()
        node.containers.trust_key(self.key)
        node.configure(configuration(str(self.repository), f"PchKey={self.pch_key.public}", *settings))
        node.daemon.start()

    def get(self, compiler: str = COMPILER, user: str | None = None) -> Any:
        options = ("1", "compiler", "s", compiler)
        return self.node.bus.call("GetPch", "ssa{sv}", RELEASE, "bpf-core", *options, user=user)

    def push_other(self, key: SigningKey | None, data: bytes, annotations: dict[str, str]) -> None:
        """Push something else under the tag that the node looks for."""
        (tag,) = (file["tag"] for file in self.pushed["files"])
        auth = credentials(self.node.etc / "other.json", self.registry.name, "pusher")
        directory = self.node.etc.parent / "other"
        pushing = Pushing(skopeo(self.node.containers, auth), self.repository, directory)
        asyncio.run(push_file(pushing, key, data, annotations, tag=tag))

    def looked(self) -> list[str]:
        """The requests for precompiled headers."""
        return [path for _, path, _, _ in self.registry.requests() if "/manifests/pch-" in path]

    def told(self) -> list[str]:
        """What the last daemon has told of precompiled headers."""
        text = self.node.daemon.log.read_text().rpartition("has stopped")[2]
        return [line for line in text.splitlines() if "Fetched" in line or "ompiled" in line]

    def compiles(self, arguments: list[str], directory: Path) -> bool:
        (directory / "program.c").write_text(PROGRAM)
        command = [COMPILER, *arguments, "-c", "program.c", "-o", "program.o"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        return (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def fleet(
    registry: Registry,
    key: SigningKey,
    other_key: SigningKey,
    tmp_path: Path,
    memory: Path,
    request: pytest.FixtureRequest,
) -> Iterator[Fleet]:
    name = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
    repository = registry.repository(f"pchs/{name}")
    settings = configuration(str(repository), f"PushPchSigningKey={other_key.private}", key=key)
    with running_node(memory / "node", registry, settings, lookaside=tmp_path) as node:
        yield Fleet(node, registry, repository, key, other_key)


def test_it_is_taken(fleet: Fleet, tmp_path: Path) -> None:
    fleet.push()
    (file,) = fleet.pushed["files"]
    assert (fleet.pushed["pushed"], file["pushed"]) == (True, True)
    before = len(fleet.registry.requests())
    again = fleet.node.do("push", RELEASE, str(fleet.repository), "--pchs")
    requests = fleet.registry.requests()[before:]
    assert {method for method, *_ in requests} <= {"GET", "HEAD"}
    assert len(requests) <= 5, requests
    assert [again["pushed"], *(one["pushed"] for one in again["files"])] == [False, False]
    assert again["files"][0]["reference"] == file["reference"]

    fleet.become_another()
    path, arguments, details = fleet.get()
    assert (details["source"], details["pch_origin"]) == ("registry", file["reference"])
    assert Path(path).read_bytes() == fleet.pch
    assert fleet.compiles(arguments, tmp_path)
    (line,) = fleet.told()
    assert "Fetched 4 headers" in line
    assert file["reference"] in line
    (described,) = json.loads(fleet.node.bus.call("Describe")[0])["cache"]["entries"]
    assert described["pchs"][0]["pch_origin"] == file["reference"]
    assert f"registry {file['reference']}" in fleet.node.ctl("list").stdout
    assert fleet.node.daemon.leftovers() == []
    assert os.listdir(fleet.node.daemon.cache / ".registry") == []
    # It is there now, and still after a restart.
    looked = len(fleet.looked())
    assert fleet.get()[2]["fresh"] is False
    assert fleet.node.daemon.stop() == 0
    fleet.node.daemon.start()
    assert fleet.get()[2]["pch_origin"] == file["reference"]
    assert len(fleet.looked()) == looked


def compiled_here(fleet: Fleet, why: str, directory: Path, compiler: str = COMPILER) -> None:
    """Check that it was, for a reason that one line of the journal tells, and that nothing is left."""
    path, arguments, details = fleet.get(compiler)
    assert details["pch_origin"] == ""
    if compiler == COMPILER:
        assert Path(path).read_bytes() == fleet.pch
        assert fleet.compiles(arguments, directory)
    lines = [line for line in fleet.told() if "is compiled here" in line]
    assert len(lines) == (1 if why else 0)
    assert all(why in line for line in lines)
    assert len([line for line in fleet.told() if "Compiled 4 headers" in line]) == 1
    assert fleet.node.daemon.leftovers() == []
    registry = fleet.node.daemon.cache / ".registry"
    assert not registry.exists() or os.listdir(registry) == []
    assert os.listdir(Path(path).parent.parent) == [details["key"]]


def test_without_a_key_nothing_is_asked_for(fleet: Fleet, tmp_path: Path) -> None:
    fleet.push()
    looked = len(fleet.looked())
    fleet.become_another("PchKey=")
    compiled_here(fleet, "", tmp_path)
    assert len(fleet.looked()) == looked


def test_the_key_of_headers_is_not_that_of_precompiled_ones(fleet: Fleet, tmp_path: Path) -> None:
    fleet.push()
    fleet.become_another(f"PchKey={fleet.key.public}")
    compiled_here(fleet, "is not signed as PchKey= demands", tmp_path)


def test_unsigned(fleet: Fleet, tmp_path: Path) -> None:
    fleet.push()
    fleet.become_another()
    fleet.push_other(None, fleet.pch + b"other", {})
    compiled_here(fleet, "is not signed as PchKey= demands", tmp_path)


def overwritten(pch: bytes) -> bytes:
    start, size = len(pch) // 8, len(pch) // 2
    return pch[:start] + random.Random(1).randbytes(size) + pch[start + size :]


@pytest.mark.parametrize(
    ("change", "annotations", "why"),
    [
        (lambda pch: pch[: len(pch) // 2], {}, "cannot compile a program with"),
        (overwritten, {}, "cannot compile a program with"),
        (lambda pch: b"\x7fELF" + pch[4:], {}, "is no precompiled header of clang's"),
        (lambda pch: pch, {oci.CONTENT: "0" * 64}, "is not what the manifest promises"),
        (lambda pch: pch, {oci.KEY: "0" * 64}, "is another file"),
    ],
    ids=["truncated", "overwritten", "something else", "digest", "key"],
)
def test_what_is_signed_and_damaged(
    fleet: Fleet,
    tmp_path: Path,
    change: Callable[[bytes], bytes],
    annotations: dict[str, str],
    why: str,
) -> None:
    fleet.push()
    fleet.become_another()
    fleet.push_other(fleet.pch_key, change(fleet.pch), annotations)
    compiled_here(fleet, why, tmp_path)


@pytest.mark.skipif(COMPILER == OTHER_COMPILER, reason="there is only one compiler")
def test_another_compiler(fleet: Fleet, tmp_path: Path) -> None:
    fleet.push()
    fleet.become_another()
    compiled_here(fleet, f"there is no {fleet.repository}:pch-", tmp_path, OTHER_COMPILER)


def test_ahead_of_any_need(fleet: Fleet) -> None:
    fleet.push()
    (file,) = fleet.pushed["files"]
    fleet.become_another("RegistryFirst=yes", "[Ahead]", "Profiles=bpf-core", f"Compilers={COMPILER}")
    wait_until(lambda: file["reference"] in "".join(fleet.told()))
    assert not any("Compiled" in line for line in fleet.told())
    assert fleet.get()[2]["fresh"] is False


@pytest.mark.skipif(not is_installed(), reason="needs libbpfcc, bpfcc-tools, and the clang of its LLVM")
def test_bcc(fleet: Fleet, real_headers: RealHeaders) -> None:
    node, release = fleet.node, real_headers.release
    modules = node.host.root / "lib/modules" / release / "kernel/kernel"
    modules.mkdir(parents=True)
    shutil.copy(real_headers.module, modules / "kheaders.ko")
    node.host.show(ARCHIVE)  # of another kernel
    _, cflags, details = node.bus.call("GetPch", "ssa{sv}", release, "bcc-small", "0")
    expected = compiled("vfsstat", details["source_tree"], cflags)
    (file,) = node.do("push", release, str(fleet.repository), "--pchs")["files"]

    shutil.rmtree(modules)
    fleet.become_another()
    _, taken, details = node.bus.call("GetPch", "ssa{sv}", release, "bcc-small", "0")
    assert (details["pch_origin"], taken) == (file["reference"], cflags)
    assert compiled("vfsstat", details["source_tree"], taken).functions == expected.functions
    assert not any("Compiled" in line for line in fleet.told())


def test_who_may_not_download_has_it_compiled(fleet: Fleet) -> None:
    fleet.push()
    fleet.become_another("RegistryUnsigned=yes")
    fleet.node.do("get")
    looked = len(fleet.looked())
    _, _, details = fleet.get(user="nobody")
    assert details["pch_origin"] == ""
    assert len(fleet.looked()) == looked


_WITHOUT_BPFTOOL = 'mount --bind /dev/null /usr/sbin/bpftool; exec "$@"'


@pytest.mark.skipif(not Path("/usr/sbin/bpftool").exists(), reason="there is no bpftool")
@pytest.mark.skipif(not os.access(RUNNING_BTF, os.R_OK), reason="this kernel has no BTF")
@pytest.mark.parametrize("trusted", [True, False])
def test_vmlinux_h_of_a_host_with_bpftool(fleet: Fleet, trusted: bool) -> None:
    node = fleet.node
    btf = node.host.root / "sys/kernel/btf/vmlinux"
    btf.parent.mkdir()
    btf.write_bytes(RUNNING_BTF.read_bytes())
    node.host.show(ARCHIVE)
    path, _ = node.bus.call("GetTypes", "sa{sv}", RELEASE, "0")
    text = Path(path).read_bytes()
    (file,) = node.do("push", RELEASE, str(fleet.repository), "--types")["files"]
    assert file["tag"] == f"types-{hashlib.sha256(btf.read_bytes()).hexdigest()}"
    (again,) = node.do("push", RELEASE, str(fleet.repository), "--types")["files"]
    assert (file["pushed"], again["pushed"]) == (True, False)

    node.daemon.prefix = [*node.daemon.prefix, "sh", "-euc", _WITHOUT_BPFTOOL, "sh"]
    fleet.become_another(*(() if trusted else ("PchKey=",)))
    if not trusted:
        refused = node.bus.call("GetTypes", "sa{sv}", RELEASE, "0")
        assert isinstance(refused, Refused)
        assert "there is no bpftool" in refused.message
        return
    taken, details = node.bus.call("GetTypes", "sa{sv}", RELEASE, "0")
    assert Path(taken).read_bytes() == text
    assert (details["source"], details["fresh"]) == ("registry", True)
    assert file["reference"] in node.daemon.log.read_text().rpartition("has stopped")[2]
    assert os.listdir(node.daemon.cache / ".registry") == []
    assert node.daemon.leftovers() == []
    assert node.bus.call("GetTypes", "sa{sv}", RELEASE, "0")[1]["fresh"] is False


def test_what_cannot_be_pushed(fleet: Fleet) -> None:
    fleet.node.host.show(ARCHIVE)
    done = fleet.node.ctl("push", RELEASE, str(fleet.repository), "--pchs")
    assert done.returncode == 1
    assert f"of {RELEASE} there is nothing to push that kheadersctl pch makes" in done.stderr
    fleet.node.configure(configuration(str(fleet.repository), key=fleet.key))
    done = fleet.node.ctl("push", RELEASE, f"{fleet.repository}2", "--pchs")
    assert done.returncode == 1
    assert "PushPchSigningKey= names no key" in done.stderr
