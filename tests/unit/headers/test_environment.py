"""The variables that make bcc and bpftrace use a tree: none where they find it by themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kheadersd.headers.environment import environment, links_of_tools
from kheadersd.host.automount import AUTOMOUNT
from kheadersd.host.host import Host
from kheadersd.sources.source import Tree
from tests.support.hosts import OTHER, RELEASE, make_host, put_tree


class Live(Host):
    """A host below a directory that takes itself for the machine."""

    @property
    def is_live(self) -> bool:
        return True


@pytest.fixture
def live(tmp_path: Path) -> Live:
    make_host(tmp_path / "host")
    host = Live(tmp_path / "host")
    host.running = RELEASE
    return host


def test_a_whole_tree_elsewhere_is_named_to_both_tools(tmp_path: Path) -> None:
    host = make_host(tmp_path / "host")
    assert environment(Tree(tmp_path, tmp_path), RELEASE, host) == {
        "BCC_KERNEL_SOURCE": str(tmp_path),
        "BPFTRACE_KERNEL_SOURCE": str(tmp_path),
    }


def test_a_split_tree_is_never_named_to_bcc(tmp_path: Path) -> None:
    host = make_host(tmp_path / "host")
    source, build = tmp_path / "source", tmp_path / "build"
    assert environment(Tree(source, build), RELEASE, host) == {
        "BPFTRACE_KERNEL_SOURCE": str(source),
        "BPFTRACE_KERNEL_BUILD": str(build),
    }


def test_the_live_host_gets_variables_for_a_tree_elsewhere(tmp_path: Path) -> None:
    host = Host()
    assert environment(Tree(tmp_path, tmp_path), host.release_of(""), host)


def test_an_image_gets_variables_even_for_its_standard_tree(tmp_path: Path) -> None:
    host = make_host(tmp_path)
    build = put_tree(host.modules_directory(RELEASE) / "build")
    assert environment(Tree(build, build), RELEASE, host)


@pytest.mark.parametrize("source", [None, "build", "/nowhere"])
def test_the_standard_tree_of_the_running_kernel_needs_no_variables(live: Live, source: str | None) -> None:
    build = put_tree(live.modules_directory(RELEASE) / "build")
    if source is not None:
        (build.parent / "source").symlink_to(source)
    assert environment(Tree(build, build), RELEASE, live) == {}


def test_a_link_that_leads_nowhere_is_no_standard_tree(live: Live, tmp_path: Path) -> None:
    """As of distributions whose kernel has the link, and another package the headers."""
    (live.modules_directory(RELEASE) / "build").symlink_to("/nowhere")
    assert environment(Tree(tmp_path, tmp_path), RELEASE, live)


def test_what_the_tools_follow_tells_of_changes(live: Live, tmp_path: Path) -> None:
    modules, target = live.modules_directory(RELEASE), tmp_path / "target"
    seen = [links_of_tools(RELEASE, live)]
    changes: list[Callable[[], object]] = [
        lambda: (modules / "build").symlink_to(target),
        target.mkdir,
        lambda: (modules / "source").symlink_to("build"),
        (modules / "build").unlink,
        lambda: (modules / "build").symlink_to(AUTOMOUNT),
        target.rmdir,
    ]
    for change in changes:
        change()
        seen.append(links_of_tools(RELEASE, live))
        assert seen[-1] == links_of_tools(RELEASE, live)
    assert len(set(seen)) == len(seen) - 1, "the last one is of no consequence"
    assert links_of_tools(OTHER, live) == links_of_tools(RELEASE, Host(live.root)) == ()


def test_a_standard_tree_with_other_sources_needs_them(live: Live, tmp_path: Path) -> None:
    build = put_tree(live.modules_directory(RELEASE) / "build", parts="build")
    source = put_tree(tmp_path / "source", parts="source")
    assert environment(Tree(source, build), RELEASE, live)
    (build.parent / "source").symlink_to(source)
    assert environment(Tree(source, build), RELEASE, live) == {}
    assert environment(Tree(build, build), RELEASE, live), "bpftrace would take the other sources"


def test_the_standard_tree_of_another_kernel_needs_variables(live: Live) -> None:
    build = put_tree(live.path("lib/modules", OTHER, "build"), OTHER)
    assert environment(Tree(build, build), OTHER, live)
