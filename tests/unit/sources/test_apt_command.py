"""What apt's commands are run with."""

from __future__ import annotations

import pytest

from kheadersd.sources.package_work import clean_environment


def test_the_environment_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("APT_CONFIG", "/somewhere")
    environment = clean_environment()
    assert environment["LC_ALL"] == "C"
    assert environment["https_proxy"] == "http://127.0.0.1:1"
    assert not {"SECRET", "APT_CONFIG"} & environment.keys()
    assert environment["DEBIAN_FRONTEND"] == "noninteractive"
