"""Nothing in the product opens a file by itself that others may have made: `kheadersd.system.files` does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.support.running import REPOSITORY

PACKAGE = REPOSITORY / "kheadersd"

_OPENING = {"open", "fdopen", "read_text", "read_bytes", "copyfile", "copy", "copy2", "copytree"}
_IN_FILES = {"read_text"}  # functions of system.files with the names of methods of Path

DIRECTORY = "a directory, by O_DIRECTORY"
NEW = "a file that is made, by O_EXCL"
OPENED = "a descriptor that is open already"
NO_FILE = "a method of that name, which opens no file"
DELIVERED = "a file that is installed with the program"
OF_THE_USER = "a file that the user of kheadersctl names, who may want a pipe there"

ALLOWED = {
    "sandbox/child.py: open(descriptor)": OPENED,
    "cache/directory_lock.py: os.open(directory)": DIRECTORY,
    "system/disk.py: os.open(path)": "a directory, by O_DIRECTORY, or a new file, by O_EXCL",
    "cache/leases.py: os.open(path)": "a FIFO that the daemon has made, without waiting",
    "cache/pch_files.py: os.open(self.path / NAME)": NEW,
    "cache/without_headers.py: shutil.copyfile(entry.path / name)": "in a manifest of the cache",
    "cache/staging.py: os.open(self.tree)": DIRECTORY,
    "cache/tar_writer.py: os.open('tree')": DIRECTORY,
    "cache/tar_writer.py: os.open(entry.directory)": DIRECTORY,
    "cli/__main__.py: os.open(os.devnull)": "the null device",
    "cli/__main__.py: open(os.devnull)": "the null device",
    "precompiled/library.py: open('/proc/self/maps')": "the kernel's own file",
    "precompiled/library.py: open(_mapped(function))": "a library that this process has loaded",
    "cli/artifact.py: open(descriptor)": OPENED,
    "cli/artifact.py: path.open('xb')": NEW,
    "cli/output_file.py: new.open('rb')": "what the compiler has made in a private directory",
    "cli/output_file.py: open(descriptor)": OPENED,
    "cli/output_file.py: output.open('wb')": OF_THE_USER,
    "cli/client.py: Connection.open(address)": NO_FILE,
    "cli/streams.py: open(descriptor)": OPENED,
    "daemon/main.py: Connection.open(self._bus_address())": NO_FILE,
    "cache/manifest.py: os.open(directory or '.')": DIRECTORY,
    "cache/manifest.py: os.open(tree)": DIRECTORY,
    "cache/tree_writer.py: open('/proc/self/status')": "the kernel's own file",
    "cache/tree_writer.py: os.open(base)": NEW,
    "cache/tree_writer.py: os.open(name)": DIRECTORY,
    "pch/recipe.py: (_PREFIX_FILES / name).read_bytes()": DELIVERED,
    "sources/module_file.py: open(descriptor)": OPENED,
    "sources/rpm_verify.py: os.open(target)": NEW,
    "sources/tree_copy.py: os.open(path)": "looked at, opened without waiting, its path checked after that",
    "system/files.py: os.open(path)": "the one that checks",
    "vmlinux/provider.py: (staging.tree / vmlinux.NAME).open('x+b')": NEW,
}
"""Every other call that opens a file, with its first argument, and why that need not be `system.files`."""


def _opening_calls(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and _name(node.func) in _OPENING:
            if ast.unparse(node.func).removeprefix("files.") in _IN_FILES:
                continue
            arguments = ", ".join(map(ast.unparse, node.args[:1]))
            yield f"{path.relative_to(PACKAGE)}: {ast.unparse(node.func)}({arguments})"


def _name(called: ast.expr) -> str:
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def test_foreign_files_are_opened_in_one_place() -> None:
    calls = {call for path in PACKAGE.rglob("*.py") for call in _opening_calls(path)}
    assert sorted(calls - ALLOWED.keys()) == [], "read foreign files with kheadersd.system.files"
    assert sorted(ALLOWED.keys() - calls) == [], "not there any more"


def test_the_calls_are_found() -> None:
    calls = list(_opening_calls(PACKAGE / "system/files.py"))
    assert calls == ["system/files.py: os.open(path)"]
