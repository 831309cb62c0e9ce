"""Kernel releases: the one door through which a release from outside becomes part of a path."""

from __future__ import annotations

import re
from typing import NewType

from .errors import InvalidArgs

Release = NewType("Release", str)
"""A kernel release as ``uname -r`` prints it, safe as one component of a path."""

# The kernel's own limit, __NEW_UTS_LEN in include/uapi/linux/utsname.h. The characters are those that
# kernels, distributions and localversion files use; "/", NUL, white space and controls are not among them.
MAX_RELEASE = 64
_RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+~-]*", re.ASCII)


def parse_release(text: str) -> Release:
    """Check that ``text`` is a plausible kernel release.

    Raises:
        InvalidArgs: it is empty, longer than 64 characters, or has characters no release has.
    """
    if len(text) > MAX_RELEASE:
        raise InvalidArgs(f"a kernel release has at most {MAX_RELEASE} characters, this one has {len(text)}")
    if not _RELEASE.fullmatch(text) or ".." in text:
        raise InvalidArgs(f"{text!r} is not a kernel release: expected something like '6.1.0-13-amd64'")
    return Release(text)
