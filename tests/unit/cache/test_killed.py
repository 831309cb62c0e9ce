"""A daemon that is killed in the middle of anything leaves a cache that the next one can use."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from kheadersd.cache.cache import Cache
from tests.support.made_up_cache import names
from tests.support.running import REPOSITORY

# Makes, replaces, marks and removes entries without end.
RESTLESS = """
import itertools, sys
from pathlib import Path
from tests.support.made_up_cache import RELEASE, make, make_durable
from kheadersd.cache.cache import Cache
from kheadersd.release import Release
from kheadersd.system.disk import remove_tree

cache = Cache(Path(sys.argv[1]))
cache.open()
print("ready", flush=True)
files = {f"include/many{n % 8}/h{n}.h": b"x" * n for n in range(64)}
for turn in itertools.count():
    release = RELEASE if turn % 2 else Release("5.10.0")
    published = make(cache, release, {**files, "include/turn.h": b"%d" % (turn % 3)})
    if turn % 3:
        make_durable(published.entry)
    if published.replaced:
        remove_tree(published.replaced)
    if turn % 5 == 0:
        trash = cache.remove(published.entry)
        remove_tree(trash)
"""

# Gets as far as a staging directory with headers in it.
STAGED = """
import sys, time
from pathlib import Path
from tests.support.made_up_cache import RELEASE, archive, extract_to
from kheadersd.cache.cache import Cache

cache = Cache(Path(sys.argv[1]))
cache.open()
source = archive()
with cache.stage(RELEASE, source.digest) as staging:
    extract_to(staging, source)
    print("ready", flush=True)
    time.sleep(60)
"""


def start(program: str, directory: Path) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(directory)],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def kill(child: subprocess.Popen[str]) -> None:
    assert child.poll() is None, "it ended by itself"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


def test_killed_while_staged(directory: Path) -> None:
    child = start(STAGED, directory)
    assert len(names(directory)) == 1
    kill(child)
    cache = Cache(directory)
    found = cache.open()
    cache.close()
    assert found.entries == []
    assert [why for _, why in found.cleared] == ["left over from an interrupted run"]
    assert names(directory) == []


def test_killed_at_any_moment(directory: Path) -> None:
    chance = random.Random(1)
    kept = 0
    for _ in range(8):
        child = start(RESTLESS, directory)
        time.sleep(chance.uniform(0.0, 0.25))
        kill(child)
        cache = Cache(directory)
        found = cache.open()
        assert found.problems == []
        assert found.unknown == []
        # What was visible under its name is whole: nothing but left-overs had to be cleared.
        assert {why for _, why in found.cleared} <= {"left over from an interrupted run"}
        assert names(directory) == sorted(entry.name for entry in found.entries)
        for entry in found.entries:
            assert entry.is_intact()
            assert entry.verify() == []
        kept += len(found.entries)
        cache.close()
    assert kept
