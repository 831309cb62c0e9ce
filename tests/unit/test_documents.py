"""The files that the documents name exist, and every file of the product names its license."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from kheadersd import config
from tests.support.running import REPOSITORY

# A room with a module, a path in the repository, or a target of a link.
_NAMED = re.compile(
    r"`(?:\./)?(\w[\w./-]*(?:/|\.(?:py|md|toml|xml|[1-8])))`|`(?:\./)?((?:tests|kheadersd)/[\w/.-]+)`|\]\(([^)]+)\)"
)


def _named(text: str) -> set[str]:
    return {name for names in _NAMED.findall(text) for name in names if name}


@pytest.mark.parametrize("document", ["CONTRIBUTING.md", "README.md", "SECURITY.md"])
def test_paths_exist(document: str) -> None:
    named = {name for name in _named((REPOSITORY / document).read_text()) if not name.startswith("http")}
    assert named
    missing = {
        name
        for name in named
        if not (REPOSITORY / name).exists() and not (REPOSITORY / "kheadersd" / name).exists()
    }
    assert not missing


def test_the_configuration_in_the_readme_has_every_setting_with_its_default(tmp_path: Path) -> None:
    (sample,) = re.findall(r"```ini\n(\[Headers\].*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)
    file = tmp_path / "kheadersd.conf"
    file.write_text(sample)
    assert config.load(file, (), required=True) == (config.Config(), ())
    section, named = "", []
    for line in sample.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            named.append((section, line.partition("=")[0]))
    assert sorted(named) == sorted(field.metadata["key"] for field in dataclasses.fields(config.Config))


def test_modules_of_the_figure_exist() -> None:
    figure = re.search(r"```\n( cli/.*?)```", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.DOTALL)
    assert figure is not None
    rooms = re.findall(r"^ (\w+)/ .*   (\S.*)$", figure[1], re.MULTILINE)
    modules = {Path("kheadersd", room, f"{name}.py") for room, names in rooms for name in names.split(", ")}
    assert {path for path in modules if not (REPOSITORY / path).exists()} == set()
    known = {path.name for path in (REPOSITORY / "kheadersd").iterdir() if (path / "__init__.py").exists()}
    assert {room for room, _ in rooms} == known


def _product() -> list[Path]:
    """All files that are installed or run, but those that have no comments."""
    tops = ("kheadersd", "units", "man", "completions", "examples", "dbus-policy", "kubernetes", ".ci", "dev")
    found = [
        path
        for top in tops
        for path in ((REPOSITORY / top).rglob("*") if (REPOSITORY / top).is_dir() else [REPOSITORY / top])
    ]
    return [path for path in found if path.is_file() and path.suffix != ".pyc" and path.name != "py.typed"]


def test_every_file_of_the_product_names_its_license() -> None:
    files = _product()
    assert len(files) > 200
    line = "SPDX-License-Identifier: LGPL-2.1-or-later"
    assert [path for path in files if line not in path.read_text()[:400]] == []
