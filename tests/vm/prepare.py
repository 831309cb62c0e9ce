"""Makes what the guests of all suites start from, side by side: ``python -m tests.vm.prepare``.

Without it the tests make the same, each when it is first wanted, one after the other.
"""

from __future__ import annotations

import signal
import sys
from concurrent.futures import ProcessPoolExecutor

from tests.support.kheaders import make_real_headers
from tests.vm.guest import BREAKDOWNS, BROKE_DOWN
from tests.vm.image import image
from tests.vm.second_kernel import second_kernel
from tests.vm.snapshot import booted
from tests.vm.suites import ALL, MAIN


def _prepare_guest(suite: str) -> None:
    booted(image(make_real_headers(suite)))
    for text in BREAKDOWNS:
        sys.stderr.write(f"{BROKE_DOWN}: {text}\n")


def _prepare_second_kernel(suite: str) -> None:
    second_kernel(suite, make_real_headers(suite).release)


def _end_in_an_orderly_way() -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def main() -> None:
    _end_in_an_orderly_way()
    with ProcessPoolExecutor(len(ALL), initializer=_end_in_an_orderly_way) as pool:
        begun = [pool.submit(_prepare_guest, suite) for suite in ALL]
        begun.append(pool.submit(_prepare_second_kernel, MAIN))
        for task in begun:
            task.result()


if __name__ == "__main__":
    main()
