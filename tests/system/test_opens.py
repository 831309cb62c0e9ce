"""Nothing in the product opens a file by itself that others may have made: `kheadersd.system.files` does."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "kheadersd"

_OPENING = {"open", "fdopen", "read_text", "read_bytes", "copyfile", "copy", "copy2", "copytree"}
_IN_FILES = {"read_text"}  # functions of system.files with the names of methods of Path

DIRECTORY = "a directory, by O_DIRECTORY"
NEW = "a file that is made, by O_EXCL"
OPENED = "a descriptor that is open already"
NO_FILE = "a method of that name, which opens no file"
DELIVERED = "a file that is installed with the program"
OF_THE_USER = "a file that the user of kheadersctl names, who may want a pipe there"

ALLOWED = {
    "apart/process.py: open(descriptor)": OPENED,
    "cache/cache.py: self._sentry.open()": NO_FILE,
    "cache/claim.py: os.open(directory)": DIRECTORY,
    "cache/disk.py: os.open(path)": "a directory, by O_DIRECTORY, or a new file, by O_EXCL",
    "cache/leases.py: os.open(path)": "a FIFO that the daemon has made, without waiting",
    "cache/pch.py: os.open(self.path / NAME)": NEW,
    "cache/reduced.py: shutil.copyfile(entry.path / name)": "a file of the cache, as its manifest says",
    "cache/staging.py: os.open(self.tree)": DIRECTORY,
    "cache/stream.py: os.open('tree')": DIRECTORY,
    "cache/stream.py: os.open(entry.directory)": DIRECTORY,
    "ctl/__main__.py: os.open(os.devnull)": "the null device",
    "ctl/cc.py: new.open('rb')": "what the compiler has made in a private directory",
    "ctl/cc.py: open(descriptor)": OPENED,
    "ctl/cc.py: output.open('wb')": OF_THE_USER,
    "ctl/cc.py: source.read_bytes()": OF_THE_USER,
    "ctl/client.py: Connection.open(address)": NO_FILE,
    "ctl/commands.py: open(descriptor)": OPENED,
    "daemon.py: Connection.open(address)": NO_FILE,
    "extraction/manifest.py: os.open(directory or '.')": DIRECTORY,
    "extraction/manifest.py: os.open(name)": "a file of the cache: looked at, and opened without waiting",
    "extraction/manifest.py: os.open(tree)": DIRECTORY,
    "extraction/treewriter.py: open('/proc/self/status')": "the kernel's own file",
    "extraction/treewriter.py: os.open(base)": NEW,
    "extraction/treewriter.py: os.open(name)": DIRECTORY,
    "pch/libbcc.py: open(descriptor)": OPENED,
    "pch/programs.py: open(descriptor)": OPENED,
    "pch/recipe.py: (_PREFIX_FILES / name).read_bytes()": DELIVERED,
    "service.py: importlib.resources.files('kheadersd').joinpath('data/org.kheaders.Provide.xml')"
    ".read_text('utf-8')": DELIVERED,
    "sources/module_file.py: open(descriptor)": OPENED,
    "sources/snapshot.py: os.open(path)": "looked at, opened without waiting, its path checked after that",
    "system/files.py: os.open(path)": "the one that checks",
    "types/maker.py: open(descriptor)": OPENED,
    "types/maker.py: os.open(vmlinux.NAME)": NEW,
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


def test_the_calls_are_found() -> None:
    calls = [call for path in (PACKAGE / "system").glob("*.py") for call in _opening_calls(path)]
    assert calls == ["system/files.py: os.open(path)"]
