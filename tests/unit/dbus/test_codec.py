"""What is used of the D-Bus libraries, private parts among it: which release has changed it."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import TYPE_CHECKING

import pytest

from kheadersd.dbus import codec
from tests.support.libraries import installed

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("name", installed())
def test_what_is_used_of_the_libraries_is_there(name: str) -> None:
    """Both libraries have private parts that are used. A release that changes one is named here."""
    try:
        used = codec.load_library(name)
    except ImportError as error:
        pytest.fail(str(error))
    release = f"{name} {importlib.metadata.version(name)}"
    changed = f"{release} has changed what kheadersd.dbus.codec uses of it: "
    used.signature_tree("as").verify([["x"]])
    body = bytes(used.marshaller("(yas)", [[7, ["x"]]]).marshall())
    assert body == b"\7\0\0\0\6\0\0\0\1\0\0\0x\0", changed + "Marshaller"
    variant = used.variant(used.signature_tree("u"), 5)
    assert (variant.signature, variant.value) == ("u", 5), changed + "Variant"


def test_a_library_that_lacks_what_is_used_is_named_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "changed_bus"
    (package / "_private").mkdir(parents=True)
    for module in ("__init__", "errors", "signature", "_private/marshaller"):
        (package / f"{module}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=r"changed_bus .* cannot be used: .*Marshaller"):
        codec.load_library("changed_bus")
    assert not [module for module in sys.modules if module.startswith("changed_bus")]
