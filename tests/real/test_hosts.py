"""Hosts other than this machine: Debian for arm64, run by qemu-user, and Debian's unstable with its clang.

The host's own Python, D-Bus daemon and compiler run there, with real headers of that architecture. Some 250
MB for each come from the network, once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kheadersd.pch.profiles import load
from tests.support import debian, debian_headers, other_host
from tests.support import precompiling as making
from tests.support.needs import needs_root

pytestmark = [pytest.mark.slow, needs_root("a root directory is root's"), pytest.mark.timeout(2400)]

_PROFILES, _ = load([making.SHIPPED])
_PROGRAMS = {"bpf-core": "opens.c", "bpf-tracing": "tcplife.c", "host-tracing": "tcplife.c"}
_SECONDS = 2000
_EM_BPF = (247).to_bytes(2, "little")


def _session(suite: str, architecture: str, directory: Path) -> tuple[dict[str, Any], str]:
    """What kheadersd does on a host, and the release of the host's kernel."""
    headers, release = debian_headers.unpacked(suite, architecture)
    root = other_host.root(suite, architecture, ["clang"])
    programs = [f"{profile}={making.CORPUS / program}" for profile, program in _PROGRAMS.items()]
    arguments = (str(headers), release, str(directory), *programs)
    module = "tests.support.host_session"
    printed = other_host.python(
        root, module, *arguments, binds=[directory], read_only=[headers], seconds=_SECONDS
    )
    return json.loads(printed), release


def _check(result: dict[str, Any], release: str, directory: Path) -> None:
    assert result["headers"]["release"] == release
    assert result["headers"]["source"] == "tree"
    for profile in _PROGRAMS:
        made = result[profile]["pch"]
        assert made["headers"] == list(_PROFILES[profile].headers)
        assert made["compiler"].startswith("/usr/lib/llvm-")
        assert "compiled with a precompiled header" in result[profile]["said"]
        assert "warning:" not in result[profile]["said"]
        assert (directory / f"{profile}.o").read_bytes()[18:20] == _EM_BPF


def test_an_arm64_host(tmp_path: Path) -> None:
    if why_not := other_host.why_not("arm64"):
        pytest.skip(why_not)
    suite = debian.suite()
    result, release = _session(suite, "arm64", tmp_path)
    assert result["machine"] == "aarch64"
    _check(result, release, tmp_path)


def test_sids_host(tmp_path: Path) -> None:
    try:
        result, release = _session("sid", debian.architecture(), tmp_path)
    except debian.CannotGet as error:
        pytest.skip(f"sid cannot be had: {error}")
    _check(result, release, tmp_path)
    assert int(result["bpf-core"]["pch"]["compiler_version"].partition(".")[0]) >= 21
