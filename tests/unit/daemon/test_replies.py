"""What callers are told: the same of one entry everywhere, each key of one type."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kheadersd.daemon.parts import Parts
from kheadersd.daemon.replies import describe_entry, details, variants
from kheadersd.daemon.status import describe, summary
from kheadersd.dbus.codec import encode
from kheadersd.headers.requests import Request, Served
from kheadersd.host.host import Host
from kheadersd.names import SOURCE_NAMES
from kheadersd.release import Release
from kheadersd.sources.source import NotFound, Tree
from tests.support.archives import make_kheaders
from tests.support.in_process import Root
from tests.support.served_host import RELEASE, ServedHost

IN_PLACE = Tree(Path("/usr/src/common"), Path("/usr/src/arch"), False)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    served = ServedHost(tmp_path / "root")
    served.show(make_kheaders(RELEASE))
    return Host(served.root)


@pytest.fixture
async def served(state: Parts) -> Served:
    return await state.provider.get(Request(Release(RELEASE), ("sysfs",)), Root())


async def test_details_of_an_entry(served: Served) -> None:
    entry = served.entry
    assert entry is not None
    values = details(served)
    assert values["source_tree"] == values["build_tree"] == str(entry.path)
    assert (values["fresh"], values["pch_count"], values["headers_kept"]) == (True, 0, True)
    assert encode("a{sv}", [variants(values)])


async def test_describe_and_details_agree(state: Parts, served: Served) -> None:
    assert served.entry is not None
    described, told = describe_entry(served.entry), details(served)
    common = described.keys() & told.keys()
    assert common >= {"release", "source", "origin", "digest", "bytes", "files", "kind", "last_used"}
    assert {key: described[key] for key in common} == {key: told[key] for key in common}
    (entry,) = json.loads(json.dumps(describe(state)))["cache"]["entries"]
    assert entry["leases"] == 0
    assert entry["digest"] == told["digest"]
    assert summary(state).startswith("idle; 1 entries, ")


async def test_where_the_running_kernels_headers_are(state: Parts, served: Served) -> None:
    """Only a look at the trees in place tells that there are none; and what is told is no use of an entry."""
    entry = served.entry
    assert entry is not None
    entry.last_used = 0
    assert describe(state)["headers"] is None
    with pytest.raises(NotFound):
        await state.existing.find_tree(served.release)
    expected = {"path": str(entry.path), "source": "sysfs", "origin": entry.record.origin}
    assert describe(state)["headers"] == expected
    assert entry.last_used == 0
    assert (await state.existing.lookup(Request(served.release, SOURCE_NAMES))).entry is entry
    assert entry.last_used > 0
    state.cache.remove(entry)
    assert describe(state)["headers"] == {}


def test_details_of_a_tree_in_place_tell_of_no_entry(host: Host) -> None:
    values = details(Served(host, Release("6.1.0"), "tree", IN_PLACE))
    assert values.keys() == {"release", "source", "source_tree", "build_tree", "fresh", "environment"}
    assert values["source_tree"] != values["build_tree"]
    assert values["environment"] == {
        "BPFTRACE_KERNEL_SOURCE": values["source_tree"],
        "BPFTRACE_KERNEL_BUILD": values["build_tree"],
    }


def test_a_kernel_with_randomised_structures_is_warned_of(host: Host) -> None:
    tree = Tree(IN_PLACE.source_tree, IN_PLACE.build_tree, True)
    (warning,) = variants(details(Served(host, Release("6.1.0"), "tree", tree)))["warnings"].value
    assert "CONFIG_RANDSTRUCT" in warning


def test_the_types_of_values() -> None:
    values = {"fresh": True, "files": 1, "pch_count": 2, "bytes": 3, "headers": [], "environment": {}}
    assert {key: variant.signature for key, variant in variants(values).items()} == {
        "fresh": "b",
        "files": "u",
        "pch_count": "u",
        "bytes": "t",
        "headers": "as",
        "environment": "a{ss}",
    }
