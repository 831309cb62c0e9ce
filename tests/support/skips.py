"""``--expected-skips``: a test that is skipped for a reason that is not on this list fails.

`./dev` gives it: what is missing is told. A packager's ``pytest tests/unit`` goes without.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pluggy import Result

EXPECTED = {
    r"needs root: ": "a checkout need not be root's",
    r"needs devices that are real": "a container's /sys is read-only, or its events are not told",
    r"there is no /dev/fuse": "a container has none unless it is given",
    r"no containers here: there is no /dev/autofs": "a container has none unless it is given",
    r"no user namespaces here: ": "containers and some distributions forbid them",
    r"no programs of arm64 here: ": "binfmt_misc is not every container's",
    r"this kernel has no BTF": "kernels are built without",
    r"sid: |sid cannot be had: ": "Debian's unstable changes while it is fetched",
    r"clang-(14|16) is not installed": "Debian 13 has newer ones only",
    r"clang-\d+ is the same, or not installed": "one is what the others are compared with",
    r"there is no clang-(14|16)": "Debian 13 has newer ones only",
    r"there is only one compiler": "Debian 13 has clang-19 of those that are known",
    r"this clang crashes without a precompiled header": "clang-19 of Debian 13, with one program",
    r"the example uses dbus-next, which this Python does not import": "./dev suite hides it",
    r"apt knows no linux-headers-": "a new root has no lists of packages",
    r"this kernel's current is no assembly": "kernels differ",
    r"no pods here: ": "they are only set up for all tests, and containers have none",
    r"there is no kubectl": "it renders the manifests, which are checked without it, too",
    r"this skopeo has no sigstore": "Debian 12's has it disabled",
    r"this dpkg-deb has no ": "Debian 12's has no lz4, others no zstd",
}
"""What a reason begins with, and why such a test is skipped where all was set up."""

_PATTERN = re.compile("|".join(EXPECTED))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--expected-skips", action="store_true", help="fail when a test is skipped unexpectedly")


# Not wrapper=True, which the pytest of Debian 12 does not know: a package's build uses it.
@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, Result[pytest.TestReport], None]:
    outcome = yield
    report = outcome.get_result()
    if report.skipped and item.config.getoption("expected_skips") and not hasattr(report, "wasxfail"):
        assert call.excinfo is not None
        reason = str(call.excinfo.value)
        if _PATTERN.match(reason) is None:
            report.outcome = "failed"
            report.longrepr = f"skipped, for a reason that is not in {__name__}: {reason}"
