"""What can be a release, and the names that are made of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kheadersd.cache.entry import entry_name, is_entry_name
from kheadersd.errors import InvalidArgs
from kheadersd.release import MAX_RELEASE, Release, escape, parse_release, unescape

_DIGEST = "0" * 64

_ANY_RELEASE = (
    st.text(
        st.characters(blacklist_categories=("Cc", "Cs"), blacklist_characters="/"), min_size=1, max_size=64
    )
    .filter(lambda text: len(text.encode()) <= MAX_RELEASE)
    .filter(lambda text: text not in (".", ".."))
)


@pytest.mark.parametrize(
    "text",
    [
        "6.1.0-13-amd64",
        "6.6.87.2-microsoft-standard-WSL2+",
        "6.1.0-my:lab@host,x=y^z#1~(test)",
        "-rf",
        ".hidden",
        "...",
        "6.1..2",
        " 6.1 ",
        "6.1.0-ядро",
        "6.1.0-内核",
        "é",  # as it is: composed and decomposed are two releases
        "e\u0301",
        "6.1%20",
        "$(reboot)`'\"\\*?[a]{b}|;&<>!",
        "\u202e\u200b\u2028",
        "é" * 32,
        "x" * 64,
    ],
)
def test_free_text_is_a_release(text: str) -> None:
    assert parse_release(text) == text
    assert unescape(escape(Release(text))) == text


@pytest.mark.parametrize(
    "text",
    [
        "x" * 65,
        "é" * 33,
        "x" * 10_000,
        "",
        ".",
        "..",
        "a/b",
        "/",
        "a\0b",
        "a\nb",
        "\t",
        "\x1b[0m",
        "\x7f",
        "\x85",
        "\x9b",
        "\udcff",
    ],
)
def test_what_is_no_release_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgs) as refused:
        parse_release(text)
    assert refused.value.message.isprintable()
    assert len(refused.value.message) < 400


@pytest.mark.parametrize(
    "release", ["6.1.0-13-amd64", "6.12.47+rpt-rpi-v8", "6.6.0~rc1-custom", "4.19.157_x-Perf", "x" * 64]
)
def test_the_names_of_usual_releases_stay_as_they_were(release: str) -> None:
    assert escape(Release(release)) == release
    assert entry_name(Release(release), _DIGEST) == f"{release}-{_DIGEST}"


@given(_ANY_RELEASE)
def test_any_release_has_a_plain_name_and_is_found_by_it(text: str) -> None:
    name = escape(parse_release(text))
    assert name.isascii()
    assert name.replace("%", "a")[0].isalnum()
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-~+%")
    assert unescape(name) == text
    entry = entry_name(Release(text), _DIGEST)
    assert len(entry) <= 195
    assert is_entry_name(entry)


@given(st.text(st.sampled_from("%2Ff.a-\u00e90"), max_size=24))
def test_no_release_has_two_names(name: str) -> None:
    try:
        release = unescape(name)
    except InvalidArgs:
        return
    assert escape(release) == name


@pytest.mark.parametrize("name", ["", "%", "%2", "%2F", "%00", "%41", "%d0%aa", "%%", "%%zz", "%FF", "%2E"])
def test_what_no_release_is_named_like_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgs):
        unescape(name)
    assert not is_entry_name(f"{name}-{_DIGEST}")
