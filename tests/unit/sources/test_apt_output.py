"""What apt prints, and what the daemon takes from it."""

from __future__ import annotations

import pytest

from kheadersd.errors import Corrupt, LimitsExceeded, NoSpace
from kheadersd.sources.apt_output import (
    OutdatedError,
    Package,
    download_failure,
    find_package,
    fraction_done,
    header_dependencies,
    summary,
)
from kheadersd.sources.source import NotFound, Reason

OWN = "linux-headers-6.1.0-56-amd64"
STANZA = f"""\
Package: {OWN}
Version: 6.1.192-2
Architecture: amd64
Description: Header files
 Version: of a continued line
Filename: pool/main/l/linux/{OWN}_6.1.192-2_amd64.deb
Size: 1234
SHA256: ABCDEF
Depends: linux-headers-6.1.0-56-common (= 6.1.192-2), linux-kbuild-6.1, gcc-12
"""


def package(depends: str) -> Package:
    return Package(OWN, "1", "amd64", 1, "", depends)


def test_a_package() -> None:
    found = find_package(STANZA, OWN)
    assert found is not None
    assert (found.version, found.size, found.sha256) == ("6.1.192-2", 1234, "abcdef")
    assert str(found) == f"{OWN} 6.1.192-2"


@pytest.mark.parametrize(
    "output",
    [
        "",
        STANZA.replace(f"Package: {OWN}", f"Package: {OWN}-extra"),
        STANZA.replace("Filename: ", "Other: "),
        STANZA.replace("Size: 1234", "Size: many"),
        STANZA.replace("Version: 6.1.192-2\n", ""),
    ],
)
def test_a_package_that_is_another_or_cannot_be_downloaded(output: str) -> None:
    assert find_package(output, OWN) is None


def test_a_version_that_is_asked_for() -> None:
    both = STANZA + "\n" + STANZA.replace("6.1.192-2", "6.1.193-1")
    found = find_package(both, OWN, "6.1.193-1")
    assert found is not None
    assert found.version == "6.1.193-1"
    assert find_package(both, OWN, "6.1.194-1") is None


@pytest.mark.parametrize(
    ("depends", "expected"),
    [
        ("", []),
        ("linux-kbuild-6.1 (>= 6.1.1), gcc-12", []),
        ("linux-headers-amd64", []),
        ("linux-headers-6.1.0-56-common (= 6.1.192-2)", [("linux-headers-6.1.0-56-common", "6.1.192-2")]),
        ("linux-headers-6.1.0-56-common:all", [("linux-headers-6.1.0-56-common", "")]),
        ("libc6, linux-hwe-6.8-headers-6.8.0-40", [("linux-hwe-6.8-headers-6.8.0-40", "")]),
        ("linux-headers-6.8.0-31 (>= 6.8.0)", [("linux-headers-6.8.0-31", "")]),
    ],
)
def test_dependencies_with_headers(depends: str, expected: list[tuple[str, str]]) -> None:
    assert header_dependencies(package(depends)) == expected


def test_dependencies_with_headers_are_bounded() -> None:
    names = [f"linux-headers-6.1.0-{number}" for number in range(4)]
    assert len(header_dependencies(package(", ".join(names[:3])))) == 3
    with pytest.raises(LimitsExceeded, match="4 packages with headers, and 3"):
        header_dependencies(package(", ".join(names)))


@pytest.mark.parametrize(
    ("line", "fraction"),
    [
        ("dlstatus:1:42.5:Retrieving file 1 of 2", 0.425),
        ("dlstatus:1:250:", 1.0),
        ("pmstatus:a:42.5:Unpacking", None),
        ("Get:1 http://deb.example.org", None),
    ],
)
def test_progress(line: str, fraction: float | None) -> None:
    assert fraction_done(line) == fraction


@pytest.mark.parametrize(
    ("complaints", "kind"),
    [
        ("E: You don't have enough free space in /var/cache/", NoSpace),
        ("E: Write error - write (28: No space left on device)", NoSpace),
        ("E: Failed to fetch http://x/a.deb  Hash Sum mismatch", Corrupt),
        ("E: There were unauthenticated packages and -y was used", Corrupt),
        ("E: Failed to fetch http://x/a.deb  404  Not Found [IP: ::1 80]", OutdatedError),
        ("E: Version '1' for 'a' was not found", OutdatedError),
        ("E: Could not connect to deb.example.org:80", NotFound),
    ],
)
def test_a_download_that_fails(complaints: str, kind: type[Exception]) -> None:
    error = download_failure(OWN, complaints)
    assert type(error) is kind
    assert OWN in str(error)
    if isinstance(error, NotFound):
        assert error.reason is Reason.UNREADABLE


def test_complaints_are_summed_up_without_passwords() -> None:
    complaints = "\n".join(
        [
            "Reading package lists...",
            "W: one warning",
            "Err:1 http://user:secret@deb.example.org bookworm InRelease",
            "E: the error",
            "E: " + "x" * 500,
        ]
    )
    told = summary(complaints)
    assert told.split("; ")[0] == "E: the error"
    assert len(told.split("; ")) == 3
    assert "secret" not in summary("Err:1 http://user:secret@deb.example.org")
    assert max(map(len, told.split("; "))) == 200
    assert summary("Reading package lists...") == ""
