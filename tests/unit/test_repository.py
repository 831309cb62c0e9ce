"""The names of repositories."""

from __future__ import annotations

import pytest

from kheadersd.errors import InvalidArgs
from kheadersd.repository import Repository, parse_repository

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("registry.example.org/kernels", Repository("registry.example.org", "kernels")),
        ("localhost/a/b__c.d-e", Repository("localhost", "a/b__c.d-e")),
        ("registry:5000/a", Repository("registry:5000", "a")),
        ("127.0.0.1:5000/a", Repository("127.0.0.1:5000", "a")),
        (f"example.org/a@{DIGEST}", Repository("example.org", "a", DIGEST)),
    ],
)
def test_names(text: str, expected: Repository) -> None:
    assert parse_repository(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("docker.io/kernels", "docker.io/library/kernels"),
        ("index.docker.io/kernels", "docker.io/library/kernels"),
        ("index.docker.io/a/kernels", "docker.io/a/kernels"),
        ("docker.io:443/kernels", "docker.io:443/kernels"),
    ],
)
def test_names_on_docker_hub_are_completed_as_a_policy_has_them(text: str, expected: str) -> None:
    assert parse_repository(text).name == expected


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "kernels",
            "library/kernels",
            "example.org",
            "example.org/",
            "example.org/a:tag",
            "/a",
            "a b/c",
        ),
        *("example.org/A", "example.org/a//b", "example.org/../a", "-x.org/a", "example.org:port/a"),
        *(
            "https://example.org/a",
            "example.org/a@sha256:1",
            "example.org/a@" + "sha512:" + "a" * 64,
            "e.org/a\n",
        ),
        "example.org/" + "a/" * 200 + "a",
        "example.org/a--policy=/dev/null --",
    ],
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(InvalidArgs):
        parse_repository(text)
