# SPDX-License-Identifier: LGPL-2.1-or-later
"""Writes the metadata of the installed Python package: ``dist_info.py PYPROJECT VERSION DIRECTORY``.

https://packaging.python.org/specifications/core-metadata and .../entry-points describe the files.
"""

import sys
import tomllib
from pathlib import Path
from typing import Any


def metadata(project: dict[str, Any], version: str) -> str:
    """The text of METADATA for the table ``[project]``: name, version and dependencies."""
    return "".join(
        f"{key}: {value}\n"
        for key, value in [
            ("Metadata-Version", "2.4"),
            ("Name", project["name"]),
            ("Version", version),
            ("Summary", project["description"]),
            ("License-Expression", project["license"]),
            ("Requires-Python", project["requires-python"]),
            *(("Requires-Dist", dependency) for dependency in project["dependencies"]),
        ]
    )


def entry_points(project: dict[str, Any]) -> str:
    """The text of entry_points.txt: the commands."""
    scripts = "".join(f"{name} = {function}\n" for name, function in project["scripts"].items())
    return f"[console_scripts]\n{scripts}"


def main(pyproject: str, version: str, directory: str) -> None:
    """Write the files; for INSTALLER, pip says that it does not uninstall what it did not install."""
    project = tomllib.loads(Path(pyproject).read_text())["project"]
    for name, text in {
        "METADATA": metadata(project, version),
        "entry_points.txt": entry_points(project),
        "INSTALLER": "meson\n",
    }.items():
        Path(directory, name).write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
