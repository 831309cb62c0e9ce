"""BTF comes out of every kind of image; a damaged or hostile one gives a plain reason."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import resource
import struct
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from kheadersd.errors import Corrupt, KheadersError, NoSpace, ReleaseMismatch
from kheadersd.release import Release
from kheadersd.sources.source import NotFound, Reason
from kheadersd.system.file_identity import stored_identity
from kheadersd.system.tasks import Cancelled
from kheadersd.vmlinux.kernel_image import MAX_IMAGE, FromImage, read_image
from tests.support.made_up_btf import (
    BUILD_ID,
    COMPRESSIONS,
    RELEASE,
    SIGNATURE,
    lz4_legacy,
    make_btf,
    make_bzimage,
    make_elf,
    make_flat,
    make_kernel,
    make_zboot,
    wrap,
)

BTF = make_btf()
GOOD = make_bzimage(make_kernel(), gzip.compress)


def read(path: Path, content: bytes | None = None, release: str = RELEASE) -> FromImage:
    """Read an image, with nothing left in its directory."""
    if content is not None:
        path.write_bytes(content)
    scratch = path.parent / "scratch"
    scratch.mkdir(exist_ok=True)
    try:
        return read_image(path, Release(release), scratch, threading.Event())
    finally:
        assert not list(scratch.iterdir())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "vmlinuz"


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_every_compression(image: Path, name: str) -> None:
    found = read(image, make_bzimage(make_kernel(), COMPRESSIONS[name]))
    status = image.stat()
    assert found == FromImage(BTF, BUILD_ID, stored_identity(status))


def test_lz4_of_several_blocks(image: Path) -> None:
    assert read(image, make_bzimage(make_kernel(filling=20_000_000), lz4_legacy)).btf == BTF


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_vmlinux_as_it_was_linked(image: Path, bits: int, order: str) -> None:
    btf = make_btf(order=order)
    assert read(image, make_kernel(btf, bits=bits, order=order)).btf == btf


@pytest.mark.parametrize("name", ["gzip", "zstd", "xz", "lz4"])
def test_flat_images(image: Path, name: str) -> None:
    flat, compress = make_flat(BTF), COMPRESSIONS[name]
    for content in (flat, compress(flat), make_zboot(flat, compress)):
        assert read(image, content) == FromImage(BTF, "", read(image).stamp)


def test_another_kernel_is_refused(image: Path) -> None:
    for content in (GOOD, make_kernel(), make_flat(BTF)):
        with pytest.raises(ReleaseMismatch, match=f"vmlinuz is kernel {RELEASE}, not 6.1.0-10-test"):
            read(image, content, "6.1.0-10-test")
    with pytest.raises(ReleaseMismatch):
        read(image, make_kernel(release=RELEASE + "ing"))


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (make_kernel(b""), Reason.INCOMPLETE, "no BTF: it was built without CONFIG_DEBUG_INFO_BTF"),
        (make_bzimage(make_kernel(b""), gzip.compress), Reason.INCOMPLETE, "no BTF"),
        (make_flat(b""), Reason.INCOMPLETE, "no BTF"),
        (make_flat(BTF[:-1] + b"x"), Reason.INCOMPLETE, "no BTF"),
        (b"", Reason.UNSUPPORTED, "not a kernel image of a known kind"),
        (b"#!/bin/sh\n" * 1000, Reason.UNSUPPORTED, "not a kernel image of a known kind"),
        (wrap(b"\x89LZO\0\r\n\x1a\n" + bytes(100)), Reason.UNSUPPORTED, "with LZO, which cannot be read"),
        (wrap(b"whatever it is"), Reason.UNSUPPORTED, "in an unknown way"),
        (wrap(b"whatever it is", version=0x207), Reason.UNSUPPORTED, "older than any kernel with BTF"),
        (gzip.compress(b"no kernel", mtime=0), Reason.UNSUPPORTED, "not a kernel image"),
    ],
)
def test_images_that_are_of_no_use(image: Path, content: bytes, reason: Reason, message: str) -> None:
    with pytest.raises(NotFound, match=message) as caught:
        read(image, content)
    assert caught.value.reason == reason


def test_what_is_no_file(image: Path, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no") as caught:
        read(image)
    assert caught.value.reason == Reason.MISSING
    os.mkfifo(image)
    for path in (image, tmp_path):
        with pytest.raises(NotFound, match="not a regular file"):
            read(path)


@pytest.mark.parametrize("name", COMPRESSIONS)
@pytest.mark.parametrize("kept", [0.6, 0.95])
def test_an_image_that_is_cut_short(image: Path, name: str, kept: float) -> None:
    whole = make_bzimage(make_kernel(), COMPRESSIONS[name])
    with pytest.raises(Corrupt, match=r"damaged|cut short"):
        read(image, whole[: int((len(whole) - len(SIGNATURE)) * kept)])


def test_an_image_that_is_cut_off_in_its_header(image: Path) -> None:
    for size in range(0, 0x260, 7):
        with pytest.raises((Corrupt, NotFound), match=r"damaged|not a kernel image"):
            read(image, GOOD[:size])


@pytest.mark.parametrize("name", COMPRESSIONS)
def test_a_payload_that_is_cut_short(image: Path, name: str) -> None:
    packed = COMPRESSIONS[name](make_kernel())
    with pytest.raises((Corrupt, NotFound), match=r"damaged|cut short|unknown way"):
        read(image, wrap(packed[: len(packed) * 2 // 3] + struct.pack("<I", len(make_kernel()))))


@pytest.mark.parametrize(
    "content",
    [
        wrap(gzip.compress(make_kernel()), offset=0xFFFFFFFF),
        wrap(gzip.compress(make_kernel()), length=0xFFFFFFFF),
        wrap(gzip.compress(make_kernel()), length=0),
        wrap(gzip.compress(make_kernel()), length=3),
        make_bzimage(make_kernel(), COMPRESSIONS["zstd"], size=5),
        make_zboot(make_flat(BTF), gzip.compress)[:-2000],
        wrap(b"\x02\x21\x4c\x18" + struct.pack("<I", 0xFFFFFFFF) + bytes(100)),
        wrap(b"\x02\x21\x4c\x18" + struct.pack("<I", 0) + bytes(100)),
        # A dictionary of 1.5 GiB.
        wrap(b"\x5d" + struct.pack("<IQ", 0x60000000, 2**64 - 1) + bytes(100)),
        # A zstd frame with a window of 2 GiB.
        wrap(b"\x28\xb5\x2f\xfd\x00\xa8" + b"\x01\x00\x00" + bytes(100)),
    ],
)
def test_hostile_lengths(image: Path, content: bytes) -> None:
    with pytest.raises(Corrupt):
        read(image, content)


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (4, "B", 3),
        (5, "B", 0),
        (40, "Q", 2**63),
        (40, "Q", 2**64 - 1),
        (58, "H", 0),
        (58, "H", 65535),
        (60, "H", 0),
        (60, "H", 65535),
        (62, "H", 65535),
    ],
)
def test_hostile_elf_headers(image: Path, offset: int, form: str, value: int) -> None:
    kernel = bytearray(make_kernel())
    struct.pack_into(f"<{form}", kernel, offset, value)
    for content in (bytes(kernel), make_bzimage(bytes(kernel), gzip.compress)):
        with pytest.raises(Corrupt):
            read(image, content)


def test_a_kernel_that_does_not_say_which_it_is(image: Path) -> None:
    with pytest.raises(Corrupt, match="has no version of a kernel"):
        read(image, make_elf([(".rodata", 1, b"%s version %s"), (".BTF", 1, BTF)]))


def test_btf_of_something_else(image: Path) -> None:
    with pytest.raises(Corrupt, match="no task_struct"):
        read(image, make_bzimage(make_kernel(make_btf("another")), gzip.compress))


def test_an_image_that_is_too_large(image: Path) -> None:
    image.write_bytes(GOOD)
    os.truncate(image, MAX_IMAGE + 1)
    with pytest.raises(Corrupt, match="more than the"):
        read(image)


@pytest.mark.slow
def test_bombs(image: Path) -> None:
    zeros = bytes(64 << 20)
    gzipped = zlib.compressobj(1, wbits=31)
    many = b"".join(gzipped.compress(zeros) for _ in range(17)) + gzipped.flush()
    frame = zstandard.ZstdCompressor().compressobj()
    frames = b"".join(frame.compress(zeros) for _ in range(17)) + frame.flush()
    for packed in (many, frames):
        with pytest.raises(Corrupt, match="more than 1073741824 bytes"):
            read(image, wrap(packed))


def test_damage_anywhere_gives_a_plain_reason(image: Path) -> None:
    chance = random.Random(1)
    small = make_kernel(filling=2048)
    images = [make_bzimage(small, compress) for compress in COMPRESSIONS.values()]
    for content in [*images, small, make_zboot(small, gzip.compress)]:
        for _ in range(100):
            damaged = bytearray(content)
            for _ in range(chance.randrange(1, 8)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            with contextlib.suppress(NotFound, Corrupt, ReleaseMismatch):
                read(image, bytes(damaged))


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk(image: Path) -> None:
    image.write_bytes(GOOD)
    with files_of_at_most(1 << 20), pytest.raises(NoSpace, match=r"no room in .*scratch"):
        read(image)


def test_a_scratch_directory_that_is_not_there(image: Path, tmp_path: Path) -> None:
    image.write_bytes(GOOD)
    with pytest.raises(KheadersError, match=r"cannot decompress a kernel in .*: No such file"):
        read_image(image, Release(RELEASE), tmp_path / "none", threading.Event())


def test_it_ends_when_nobody_wants_it(image: Path, tmp_path: Path) -> None:
    image.write_bytes(GOOD)
    cancelled = threading.Event()
    cancelled.set()
    with pytest.raises(Cancelled):
        read_image(image, Release(RELEASE), tmp_path, cancelled)
