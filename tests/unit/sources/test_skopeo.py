"""What skopeo's messages mean; `tests/real/registry` has the real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from kheadersd.errors import Corrupt, KheadersError, NoSpace
from kheadersd.repository import parse_repository
from kheadersd.sources.skopeo import LOOKED_AT, failure, push_failure
from kheadersd.sources.source import NotFound, Reason

REPOSITORY = parse_repository("localhost:1/kernels/signature")
SCRATCH = Path("/var/cache/kheaders/work/run-abcd")


def failed(text: str) -> NotFound | KheadersError:
    return failure(said(text), REPOSITORY, ":6.1-forbidden-x86", "fetched", SCRATCH)


def said(text: str) -> str:
    return f'time="2026-11-26T15:35:41Z" level=fatal msg="{text}"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("reading manifest a in localhost:1/b: manifest unknown: manifest unknown", Reason.MISSING),
        ("reading manifest a in localhost:1/b: name unknown", Reason.MISSING),
        ("reading manifest a: unauthorized: authentication required", Reason.UNREADABLE),
        (
            'pinging container registry a: Get \\"https://a/v2/\\": dial tcp: connection refused',
            Reason.UNREADABLE,
        ),
        ("", Reason.UNREADABLE),
        (f"writing blob: write {SCRATCH}/artifact/dir-put-blob1: no space left on device", NoSpace),
        # What the registry says of itself, or is named.
        ("writing blob: write /var/lib/registry/1: no space left on device", Reason.UNREADABLE),
        ("received unexpected HTTP status: unknown: no space left on device", Reason.UNREADABLE),
        (
            "reading manifest 6.1-forbidden-x86 in localhost:1/kernels/signature: connection refused",
            Reason.UNREADABLE,
        ),
        (
            'Get \\"https://localhost:1/v2/kernels/signature/manifests/1\\": connection refused',
            Reason.UNREADABLE,
        ),
        ('Get \\"https://b/c?X-Amz-Signature=ab\\": connection refused', Reason.UNREADABLE),
        (
            "x509: cannot verify signature: insecure algorithm SHA1-RSA",
            Reason.UNREADABLE,
        ),
        ("writing blob: write a/dir-put-blob1: file too large", Corrupt),
        ("Source image rejected: A signature was required, but no signature exists", Corrupt),
        (
            'Source image rejected: Get \\"https://lookaside/a\\": dial tcp 127.0.0.1:1: connection refused',
            Reason.UNREADABLE,
        ),
        ("Source image rejected: open /etc/keys/a.gpg: permission denied", Reason.UNREADABLE),
        ("invalid character '<' looking for beginning of value", Corrupt),
        ("Digest did not match, expected sha256:a, got sha256:b", Corrupt),
    ],
)
def test_failures(text: str, expected: Reason | type[KheadersError]) -> None:
    error = failed(text)
    if isinstance(expected, Reason):
        assert isinstance(error, NotFound)
        assert error.reason is expected
    else:
        assert type(error) is expected
    assert f"{REPOSITORY}:6.1-forbidden-x86" in error.message


def test_a_warning_before_the_reason() -> None:
    warning = 'time="2026-11-26T15:35:41Z" level=warning msg="open /a: no such file or directory"\n'
    text = warning + said("Source image rejected: A signature was required, but no signature exists")
    assert type(failure(text, REPOSITORY, ":6.1", "fetched")) is Corrupt


def test_nonsense_instead_of_a_token_is_no_artifact() -> None:
    text = said("invalid character '<' looking for beginning of value")
    error = failure(text, REPOSITORY, ":6.1", LOOKED_AT)
    assert isinstance(error, NotFound)
    assert error.reason is Reason.UNREADABLE


@pytest.mark.parametrize(
    ("text", "is_signing", "expected"),
    [
        ("writing signatures: mkdir /srv/a: read-only file system", True, "cannot be signed: writing"),
        ("creating signature: gpgme: Bad passphrase", True, "cannot be signed: creating"),
        ("writing manifest: name unknown: The repository does not exist", False, "cannot be pushed: writing"),
        ("writing blob: unexpected HTTP status: 413 Request Entity Too Large", False, "cannot be pushed: "),
        ("writing manifest: tag invalid: The tag cannot be overwritten", False, "cannot be pushed: writing"),
        (
            "writing blob: requested access to the resource is denied",
            False,
            "wants other credentials",
        ),
    ],
)
def test_failures_to_push(text: str, is_signing: bool, expected: str) -> None:
    error = push_failure(said(text), REPOSITORY, ":6.1-forbidden-x86")
    assert isinstance(error, KheadersError) == is_signing
    assert expected in error.message
    assert "containers-policy.json" not in error.message


def test_a_message_is_shortened_and_printable() -> None:
    message = failed("\x1b[31m" + "x" * 10_000).message
    assert message.isprintable()
    assert len(message) < 500


def test_what_a_message_does_not_tell() -> None:
    message = failed('Get \\"https://me:secret@b/c?X-Amz-Signature=ab&d=e\\": connection refused').message
    assert 'Get "https://b/c": connection refused' in message
