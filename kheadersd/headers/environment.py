# SPDX-License-Identifier: LGPL-2.1-or-later
"""The variables that make bcc and bpftrace use a tree of headers."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from ..host.automount import AUTOMOUNT, standard_directory
from ..system.file_identity import identity_at

if TYPE_CHECKING:
    from ..host.host import Host
    from ..release import Release
    from ..sources.source import Tree


def environment(tree: Tree, release: Release, host: Host) -> dict[str, str]:
    """The variables with which bcc and bpftrace use ``tree``; some tens of microseconds.

    Empty when the tools find the tree by themselves, in /lib/modules of the machine that the daemon runs on.
    bcc gets no variable for a split tree: BCC_KERNEL_SOURCE names the one directory that it then takes for
    both (bcc's kbuild_helper.cc). bpftrace takes two (its get_kernel_dirs).
    """
    if _finds_standard(release, host) and _is_standard(tree, release, host):
        return {}
    if tree.source_tree == tree.build_tree:
        return {"BCC_KERNEL_SOURCE": str(tree.build_tree), "BPFTRACE_KERNEL_SOURCE": str(tree.build_tree)}
    return {
        "BPFTRACE_KERNEL_SOURCE": str(tree.source_tree),
        "BPFTRACE_KERNEL_BUILD": str(tree.build_tree),
    }


def links_of_tools(release: Release, host: Host) -> tuple[object, ...]:
    """Changes when the `environment` of a tree does; some microseconds.

    The links that the tools follow, and what they lead to: more links behind these are not looked at.
    """
    if not _finds_standard(release, host):
        return ()
    directory = os.fspath(host.modules_directory(release))
    found: list[object] = []
    for name in ("build", "source"):
        path = f"{directory}/{name}"
        try:
            # Strings are ten times as fast as paths, and each call takes this.
            target = os.path.join(directory, os.readlink(path))  # noqa: PTH115, PTH118
        except OSError:
            target = path
        found.append(target)
        # What it is does not change there, and a look at it would mount it.
        if not target.startswith(AUTOMOUNT):
            found.append(identity_at(target, follow=False))
    return tuple(found)


def _finds_standard(release: Release, host: Host) -> bool:
    """Whether programs for a kernel run here, where the tools look for its headers by themselves."""
    return host.is_live and release == host.running


def _is_standard(tree: Tree, release: Release, host: Host) -> bool:
    """Whether both tools come to ``tree`` when nothing tells them where to look."""
    try:
        build = standard_directory("build", release, host)
    except OSError:
        return False
    if build is None:  # bcc does not take "source" for both
        return False
    try:
        source = standard_directory("source", release, host)
    except OSError as error:
        if error.errno != errno.ENOENT:
            return False
        source = None  # to both tools a link that leads nowhere is none
    return tree.build_tree == build and tree.source_tree == (source or build)
