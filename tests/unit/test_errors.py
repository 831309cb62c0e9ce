"""The errors that a caller can get."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator

import kheadersd
from kheadersd.dbus.errors import BusError
from kheadersd.errors import KheadersError


def kinds(of: type[KheadersError]) -> Iterator[type[KheadersError]]:
    yield of
    for kind in of.__subclasses__():
        yield from kinds(kind)


def test_every_error_can_be_reworded() -> None:
    for module in pkgutil.walk_packages(kheadersd.__path__, "kheadersd."):
        if not module.name.endswith("__main__") and ".data" not in module.name:
            importlib.import_module(module.name)
    for kind in kinds(KheadersError):
        # Some have constructors of their own.
        error = kind.__new__(kind).reworded("after")
        assert (type(error), error.message, str(error)) == (kind, "after", "after")
    error = BusError("a.b.C", "before", ":1.1").reworded("after")
    assert isinstance(error, BusError)
    assert (error.name, error.message, error.sender) == ("a.b.C", "after", ":1.1")
