"""All that runs inside the tests' own process, once more with dbus-fast."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from tests.support.dbus_rig import path_for
from tests.support.running import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow


def test_with_dbus_fast(tmp_path: Path) -> None:
    modules = ["tests/daemon/dbus/test_connection.py", "tests/unit/dbus/test_library.py"]
    check = "from kheadersd.dbus.codec import LIBRARY; assert LIBRARY == 'dbus_fast', LIBRARY"
    environment = {**os.environ, "PYTHONPATH": path_for("dbus_fast", tmp_path)}
    subprocess.run([sys.executable, "-c", check], env=environment, check=True)
    # The path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="kh-") as short:
        command = [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
            f"--basetemp={short}/run",
            *modules,
        ]
        result = subprocess.run(
            command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=120, check=False
        )
    assert result.returncode == 0, result.stdout + result.stderr
