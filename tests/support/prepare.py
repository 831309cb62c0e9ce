"""Makes what many tests need and takes minutes, before the first of them: no time limit has to cover it.

``python -m tests.support.prepare [SUITE]``: for this machine's suite of Debian, or another one. What
cannot be made is told, and the tests that need it fail.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from tests.support import container, debian
from tests.support.kheaders import make_real_headers
from tests.support.package import older_package, package
from tests.support.real_image import real_image
from tests.support.suse_repository import programs


def prepare(suite: str, *, containers: bool = True) -> None:
    """Make real headers, roots for containers, and zypper of a suite; and a kernel's image."""
    made: dict[str, Callable[[], object]] = {
        "kheaders.ko": lambda: make_real_headers(suite),
        "a kernel": real_image,
        "zypper": lambda: programs(suite),
    }
    if containers and not container.why_not():
        made["a root for containers"] = lambda: container.base(suite)
        made["a root with a registry"] = lambda: container.base(suite, *container.REGISTRY)
        made["a root with a compiler"] = lambda: container.base(suite, *container.COMPILER)
        made["a root with dnf"] = lambda: container.base(suite, *container.DNF)
        made["a root with zypper"] = lambda: container.base(suite, *container.ZYPPER)
        made["the package"] = package
        made["an older package"] = older_package
    for what, make in made.items():
        try:
            make()
        except Exception as error:  # noqa: BLE001 - whatever it is, the tests say what it means
            sys.stderr.write(f"{what} of {suite} cannot be made: {error}\n")


if __name__ == "__main__":
    prepare(sys.argv[1] if len(sys.argv) > 1 else debian.suite())
