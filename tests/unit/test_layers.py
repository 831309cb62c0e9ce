"""The layers of CONTRIBUTING.md: a module imports from its own or from one below, and no two each other."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path

import pytest

from tests.support.running import REPOSITORY

LAYERS = (
    "errors",
    "system",
    # What every room may know, each only those before it.
    *("release", "repository", "names", "events", "journal", "progress", "config"),
    *(
        "formats",
        "dbus",
        "sandbox",
        "host",
        "sources",
        "cache",
        "headers",
        "vmlinux",
        "pch",
        "daemon",
        "precompiled",
    ),
    *("bcc", "cli"),
)
"""From the bottom to the top."""

LATE = {
    "__main__: daemon.main": "a missing library is told in words",
    "cli.__main__: cli.client": "50 ms of all that only calls: asyncio and D-Bus",
    "cli.__main__: cli.commands": "10 ms of --help",
    "cli.__main__: cli.blocking_client": "as cli.commands",
    "cli.__main__: precompiled.sd_bus": "as cli.commands",
    "cli.__main__: cli.streams": "as cli.client: it imports asyncio",
    "cli.arguments: repository": "8 ms of all other commands: dataclasses",
    "cli.__main__: cli.cc": "6 ms of all other commands",
    "cli.__main__: cli.push": "15 ms of all other commands",
    "cli.cc: cli.plain_headers": "20 ms of all that is compiled with a precompiled header",
    "daemon.parts: daemon.derived": "0.8 MiB of a daemon that is asked for headers only",
    "sources.package: sources.apt": "0.4 MiB of a daemon that is asked for no package",
    "sources.package: sources.pacman": "as sources.apt",
    "sources.package: sources.suse": "as sources.apt",
    "sources.package: sources.rpm": "as sources.apt",
}
"""What is imported within a function, and what that saves."""


@dataclasses.dataclass(frozen=True)
class Import:
    """One module of the product that another one imports."""

    importer: str
    imported: str
    is_in_function: bool

    def __str__(self) -> str:
        return f"{self.importer}: {self.imported}"


def _modules() -> dict[str, Path]:
    """All modules by their names below the package; a package has the name of its directory."""
    package = REPOSITORY / "kheadersd"
    found = {}
    for path in sorted(package.rglob("*.py")):
        if path.is_relative_to(package / "data"):
            continue  # a program of its own, which others run
        parts = path.relative_to(package).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = _modules()


def _imports(module: str) -> set[Import]:
    """What a module imports of the product, also for type checking and within functions."""
    path = MODULES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    in_functions = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not any(name.name.split(".")[0] == "kheadersd" for name in node.names), "import relatively"
        elif isinstance(node, ast.ImportFrom) and not node.level:
            assert node.module is None or node.module.split(".")[0] != "kheadersd", "import relatively"
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + (node.module or "").split(".")
            for alias in node.names:
                names = [".".join(filter(None, parts)) for parts in ([*base, alias.name], base)]
                name = next(name for name in names if name in MODULES)
                found.add(Import(module, name, node in in_functions))
    return {one for one in found if one.imported not in ("", module)}


IMPORTS = {module: _imports(module) for module in MODULES}


def _layer(module: str) -> str:
    return module.split(".")[0]


def _is_upward(one: Import) -> bool:
    return LAYERS.index(_layer(one.imported)) > LAYERS.index(_layer(one.importer))


def test_every_module_has_a_layer() -> None:
    assert {_layer(module) for module in MODULES} - {"", "__main__"} <= set(LAYERS)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"", "__main__"}))
def test_it_imports_from_below(module: str) -> None:
    assert [str(one) for one in IMPORTS[module] if _is_upward(one)] == []


def test_no_modules_import_one_another() -> None:
    left = {module: {one.imported for one in found} for module, found in IMPORTS.items()}
    while free := {module for module, imported in left.items() if not imported & left.keys()}:
        for module in free:
            del left[module]
    assert sorted(left) == []


def test_what_is_imported_late_is_known_and_saves_something() -> None:
    late = {str(one) for found in IMPORTS.values() for one in found if one.is_in_function}
    assert sorted(late) == sorted(LATE)
