"""The journal at its edge: a datagram socket where journald's would be, in a mount namespace of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from kheadersd import journal as journal_module
from kheadersd.errors import Corrupt, InvalidArgs, NotCached, Timeout
from kheadersd.events import Event
from kheadersd.journal import LEVELS, TARGETS, Handler, Journal
from tests.support.needs import needs_root
from tests.support.running import REPOSITORY

CATALOG = REPOSITORY / "units" / "kheadersd.catalog"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(REPOSITORY)}

PRELUDE = """
import json, os, socket, struct, sys, time, logging
os.mkdir("/run/systemd/journal")
def listen():
    server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    server.bind("/run/systemd/journal/socket")
    server.setblocking(False)
    return server
def entry(server):
    data, fields = server.recv(1 << 20), {}
    while data:
        line, _, data = data.partition(b"\\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size, = struct.unpack_from("<Q", data)
            value, data = data[8:8 + size], data[9 + size:]
        fields[name.decode()] = value.decode()
    return fields
from kheadersd.errors import *
from kheadersd.journal import *
"""


def in_namespace(shell: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``shell`` with ``arguments`` as root of a mount namespace."""
    return subprocess.run(
        ["unshare", "-m", "--propagation", "private", "sh", "-ec", shell, "sh", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=ENVIRONMENT,
    )


def apart(script: str) -> tuple[Any, str]:
    """Run ``script`` with a /run/systemd of its own; the JSON it prints and what it wrote on stderr."""
    done = in_namespace(
        'mkdir -p /run/systemd; mount -t tmpfs none /run/systemd; exec "$@"',
        sys.executable,
        "-c",
        PRELUDE + dedent(script),
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout or "null"), done.stderr


as_root = needs_root("a mount namespace is made")


@as_root
def test_an_event_has_its_fields() -> None:
    entry, stderr = apart("""
        server = listen()
        Journal().report(Event.ENTRY_ADDED, "Extracted 6.1.0.", release="6.1.0", source="sysfs", path="/x",
                         digest="ab", bytes=5, duration_usec=7, client_uid=0, error=None)
        print(json.dumps(entry(server)))
    """)
    assert entry == {
        "MESSAGE": "Extracted 6.1.0.",
        "MESSAGE_ID": Event.ENTRY_ADDED.message_id,
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "kheadersd",
        "KHEADERS_RELEASE": "6.1.0",
        "KHEADERS_SOURCE": "sysfs",
        "KHEADERS_PATH": "/x",
        "KHEADERS_DIGEST": "ab",
        "KHEADERS_BYTES": "5",
        "KHEADERS_DURATION_USEC": "7",
        "KHEADERS_CLIENT_UID": "0",
    }
    assert stderr == ""


@as_root
def test_values_cannot_make_fields_or_lines() -> None:
    entry, _ = apart("""
        server = listen()
        Journal().report(Event.LEASE_GRANTED, "a\\nPRIORITY=0\\0b" + "x" * 10000, release="r\\nEVIL=1",
                         client_uid=3, path="\\udc80\\x1b[0m")
        print(json.dumps(entry(server)))
    """)
    assert entry["MESSAGE"].startswith("a\\nPRIORITY=0\\x00b")
    assert len(entry["MESSAGE"]) <= 4000
    assert "EVIL" not in entry
    assert entry["KHEADERS_RELEASE"] == "r\\nEVIL=1"
    assert entry["KHEADERS_PATH"] == "\\x80\\x1b[0m"
    assert entry["PRIORITY"] == "6"


@as_root
def test_a_stopped_journald_does_not_stop_us_and_losses_are_told() -> None:
    (seconds, early, first), stderr = apart("""
        server = listen()
        journal = Journal("journal")
        start = time.monotonic()
        for number in range(2000):
            journal.report(Event.STARTED, f"{number}")
        seconds = time.monotonic() - start
        early = 0
        try:
            while entry(server): early += 1
        except BlockingIOError: pass
        journal.report(Event.STARTED, "back")
        print(json.dumps([seconds, early, entry(server)]))
    """)
    assert seconds < 20, "it was waited for again and again"
    assert first["KHEADERS_LOST"] == str(2000 - early)
    assert first["MESSAGE"] == f"back ({2000 - early} entries before this one were lost)"
    assert stderr == ""


@as_root
def test_journald_going_and_coming_back() -> None:
    entry, stderr = apart("""
        server = listen()
        journal = Journal()
        journal.report(Event.STARTED, "one")
        server.close()
        journal.report(Event.STARTED, "two")
        os.unlink("/run/systemd/journal/socket")
        journal.report(Event.STARTED, "three")
        server = listen()
        journal.report(Event.STARTED, "four")
        print(json.dumps(entry(server)))
    """)
    assert entry["MESSAGE"] == "four"
    assert stderr == "kheadersd: info: two\nkheadersd: info: three\n"


@as_root
def test_logging_ends_up_in_the_same_place() -> None:
    (warning, failure, broken), _ = apart("""
        server = listen()
        log = logging.getLogger("kheadersd.x")
        log.addHandler(Handler(Journal()))
        log.warning("careful %d", 5)
        def deep(n):
            return deep(n - 1) if n else 1 / 0
        try:
            deep(900)
        except ZeroDivisionError:
            log.exception("it\\nfailed")
        class Bad:
            def __str__(self): raise RuntimeError("no")
        log.error("%s", Bad())
        print(json.dumps([entry(server), entry(server), entry(server)]))
    """)
    assert (warning["MESSAGE"], warning["PRIORITY"]) == ("careful 5", "4")
    assert (warning["LOGGER"], warning["SYSLOG_IDENTIFIER"]) == ("kheadersd.x", "kheadersd")
    assert int(warning["CODE_LINE"]) > 0
    assert (failure["MESSAGE"], failure["PRIORITY"]) == ("it\\nfailed", "3")
    assert failure["EXCEPTION_INFO"].endswith("ZeroDivisionError: division by zero")
    assert len(failure["EXCEPTION_INFO"]) <= 8192
    assert "could not be formatted" in broken["MESSAGE"]


@as_root
def test_failures_and_refusals() -> None:
    (failed, level), stderr = apart("""
        server = listen()
        journal = Journal()
        for refusal in (NotAvailable, NotCached, InvalidArgs, AccessDenied, LimitsExceeded, InUse):
            journal.report_failure(refusal("no"))
        journal.report_failure(Corrupt("bad archive"), release="6.1.0")
        failed = entry(server)
        journal.level = "debug"
        journal.report_failure(NotCached("none"))
        print(json.dumps([failed, entry(server)["PRIORITY"]]))
    """)
    assert failed["MESSAGE"] == "bad archive"
    assert failed["PRIORITY"] == "3"
    assert failed["KHEADERS_ERROR"] == "org.kheaders.Provide.Error.Corrupt"
    assert failed["KHEADERS_RELEASE"] == "6.1.0"
    assert level == "7"
    assert stderr == ""


def _counted(line: str) -> int:
    match = re.search(r"(?:: |\()(\d+) entries", line) or re.search(r"\((\d+) of this place", line)
    return int(match[1]) if match else 0


def test_what_callers_make_happen_is_bounded_for_each_user(capfd: pytest.CaptureFixture[str]) -> None:
    """Leases and failures, of however many kinds: what was left out is counted; others are not affected."""
    journal = Journal("console", "info")
    for number in range(500):
        journal.report(Event.LEASE_GRANTED, "granted", release="6.1", client_uid=5)
        journal.report_failure((Corrupt, Timeout)[number % 2]("bad"), release="6.1", client_uid=5)
        journal.report_failure(NotCached("not said at this level"), client_uid=5)
        journal.report(Event.LEASE_ENDED, "ended", client_uid=5)
    journal.report(Event.LEASE_GRANTED, "of another", client_uid=6)
    journal.report_failure(Corrupt("of nobody known"))
    journal.report(Event.ENTRY_ADDED, "always said", client_uid=5)
    journal.log_left_out()
    lines = capfd.readouterr().err.splitlines()
    about = [
        line for line in lines if "of another" not in line and "nobody" not in line and "always" not in line
    ]
    assert len(lines) - len(about) == 3
    told = [line for line in about if not re.match(r"kheadersd: notice: \d+ entries about user 5", line)]
    assert 30 <= len(told) < 100
    assert len(told) + sum(map(_counted, about)) == 1500


def test_what_was_left_out_is_counted_by_the_next_entry(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    journal = Journal("console", "info")
    for _ in range(130):
        journal.report(Event.LEASE_GRANTED, "granted", client_uid=5)
    now += 1
    journal.report(Event.LEASE_GRANTED, "later", client_uid=5)
    journal.log_left_out()
    *_, last = capfd.readouterr().err.splitlines()
    assert last.endswith("later (100 entries about user 5 before this one were left out)")


async def test_what_was_left_out_is_told_although_nothing_follows(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal_module, "_LEFT_OUT_PAUSE", 0.01)
    journal = Journal("console", "info")
    for _ in range(40):
        journal.report(Event.LEASE_GRANTED, "granted", client_uid=5)
    err = ""
    for _ in range(500):
        await asyncio.sleep(0.01)
        err += capfd.readouterr().err
        if "left out" in err:
            break
    assert re.search(r"notice: \d+ entries about user 5 were left out", err)


def test_repeated_failures_are_counted(capfd: pytest.CaptureFixture[str]) -> None:
    journal = Journal("console", "info")
    for again in (False, True, True):
        journal.report_failure(Corrupt("bad"), again=again, client_uid=5)
        journal.report_failure(NotCached("no"), again=again, client_uid=7)
    journal.log_left_out()
    assert capfd.readouterr().err.splitlines() == [
        "kheadersd: err: bad",
        "kheadersd: notice: 2 entries about user 5 were left out",
    ]


def test_each_place_that_logs_is_bounded(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that logs what another program answers to each of a caller's requests."""
    journal = Journal("console", "debug")
    logger = logging.getLogger("test_each_place")
    monkeypatch.setattr(logger, "level", logging.DEBUG)
    monkeypatch.setattr(logger, "handlers", [Handler(journal)])
    monkeypatch.setattr(logger, "propagate", False)
    logger.setLevel(logging.DEBUG)
    for _ in range(200):
        logger.warning("first place")
        logger.warning("second place")
        logger.debug("always said")
    journal.log_left_out()
    lines = capfd.readouterr().err.splitlines()
    assert sum("always said" in line for line in lines) == 200
    for place in ("first place", "second place"):
        assert 30 <= sum(place in line for line in lines) < 60
    assert sum("were left out" in line and "test_journal.py:" in line for line in lines) == 2


def test_console(capfd: pytest.CaptureFixture[str]) -> None:
    journal = Journal("console", "notice")
    journal.report(Event.STARTED, "not said")
    journal.report(Event.ENTRY_DAMAGED, "broken\nthing")
    journal.report(Event.ENTRY_DAMAGED, "é" * 5000)
    journal.target = "null"
    journal.report(Event.ENTRY_DAMAGED, "not said")
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "kheadersd: warning: broken\\nthing"
    assert len(lines) == 2
    assert len(lines[1].encode()) < 4096


def test_console_with_a_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("kheadersd.y")
    log.addHandler(Handler(Journal("console")))
    try:
        raise ValueError("inner")
    except ValueError:
        log.exception("outer")
    error = capfd.readouterr().err
    assert error.startswith("kheadersd: err: outer\nTraceback")
    assert error.endswith("ValueError: inner\n")


def test_nobody_reads_stderr() -> None:
    """Neither a full pipe nor a closed one delays a caller."""
    script = """
import sys, time
from kheadersd.journal import *
journal = Journal("console")
for _ in range(5000): journal.report(Event.STARTED, "x" * 500)
sys.stdout.write("done"); sys.stdout.flush()
"""
    reader, writer = os.pipe()
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stderr=writer, stdout=subprocess.PIPE, env=ENVIRONMENT) as child:
        os.close(writer)
        assert child.communicate(timeout=20)[0] == b"done"
    os.close(reader)
    closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
    gone = subprocess.run(closed, capture_output=True, timeout=20, check=True, env=ENVIRONMENT)
    assert gone.stdout == b"done"


@pytest.mark.parametrize("name", ["", "loud", "INFO", "x" * 1000, "\n"])
def test_unknown_levels_and_targets(name: str) -> None:
    journal = Journal("null")
    with pytest.raises(InvalidArgs, match="is not a log level"):
        journal.level = name
    with pytest.raises(InvalidArgs, match="is not a log target"):
        journal.target = name
    assert (journal.level, journal.target) == ("info", "null")


def test_every_level_and_target() -> None:
    journal = Journal()
    for level in LEVELS:
        journal.level = level
        assert journal.level == level
    for target in TARGETS:
        journal.target = target
        assert journal.target == target


def catalog() -> dict[str, tuple[dict[str, str], str]]:
    texts = {}
    for part in re.split(r"^-- ", CATALOG.read_text(), flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n\n")
        message_id, *lines = head.splitlines()
        texts[message_id] = (dict(line.split(": ", 1) for line in lines), body.strip())
    return texts


def test_code_and_catalog_agree() -> None:
    texts = catalog()
    assert sorted(texts) == sorted(event.message_id for event in Event)
    assert len({event.message_id for event in Event}) == len(Event)
    for event in Event:
        assert re.fullmatch("[0-9a-f]{32}", event.message_id)
        headers, body = texts[event.message_id]
        assert headers["Subject"]
        assert headers["Defined-By"] == "kheadersd"
        assert "Documentation" not in headers  # there are no manual pages
        assert not re.search(r"kheaders\w*(\.conf)?\(\d\)", body)
        assert body
        named = set(re.findall("@([A-Z_]+)@", headers["Subject"] + body))
        assert named == {"KHEADERS_" + field.upper() for field in event.fields}, event


@as_root
def test_journalctl_takes_the_catalog() -> None:
    if shutil.which("journalctl") is None:
        pytest.skip("journalctl is not installed")
    done = in_namespace(
        """
        mount -t tmpfs none /var/lib/systemd
        mkdir /var/lib/systemd/catalog
        mount -t tmpfs none /usr/lib/systemd/catalog
        cp "$1" /usr/lib/systemd/catalog
        journalctl --update-catalog
        journalctl --list-catalog
        """,
        str(CATALOG),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert {line.split()[0] for line in done.stdout.splitlines()} == {event.message_id for event in Event}


@as_root
@pytest.mark.slow
def test_a_real_journald(tmp_path: Path) -> None:
    """systemd-journald, started by hand on directories of its own, stores the fields and explains them.

    The journal is below the machine's ID, which a fresh container has not got yet.
    """
    say = tmp_path / "say.py"
    say.write_text(
        dedent("""
            from kheadersd.journal import *
            journal = Journal("journal")
            fields = {"release": "6.1.0", "source": "sysfs", "path": "/x", "bytes": 5}
            journal.report(Event.ENTRY_ADDED, "Extracted.", **fields)
        """)
    )
    done = in_namespace(
        """
        cp -a /etc "$4"; mount --bind "$4" /etc; rm -f /etc/machine-id
        echo 6b68656164657273646b686561646572 >/etc/machine-id
        mkdir -p /run/systemd /run/log; mount -t tmpfs none /run/systemd; mkdir /run/systemd/journal
        mount -t tmpfs none /run/log; mkdir /run/log/journal
        mkdir -p /etc/systemd; mount -t tmpfs none /etc/systemd
        printf '[Journal]\\nStorage=volatile\\nReadKMsg=no\\nAudit=no\\n' >/etc/systemd/journald.conf
        mount -t tmpfs none /var/lib/systemd; mkdir /var/lib/systemd/catalog
        mount -t tmpfs none /usr/lib/systemd/catalog; cp "$3" /usr/lib/systemd/catalog
        journalctl --update-catalog
        /lib/systemd/systemd-journald 2>/dev/null & journald=$!
        trap 'kill $journald; wait $journald || :' EXIT
        for try in $(seq 50); do [ -S /run/systemd/journal/socket ] && break; sleep 0.1; done
        "$1" "$2"
        for try in $(seq 50); do
            out=$(journalctl -D /run/log/journal/* -t kheadersd -o json 2>/dev/null) && [ "$out" ] && break
            sleep 0.1
        done
        printf '%s\\n' "$out"
        journalctl -D /run/log/journal/* -t kheadersd -x -o short
        """,
        sys.executable,
        str(say),
        str(CATALOG),
        str(tmp_path / "etc"),
    )
    assert done.returncode == 0, done.stderr
    first, _, explained = done.stdout.partition("\n")
    entry = json.loads(first)
    assert entry["MESSAGE"] == "Extracted."
    assert entry["MESSAGE_ID"] == Event.ENTRY_ADDED.message_id
    assert (entry["KHEADERS_RELEASE"], entry["KHEADERS_BYTES"], entry["PRIORITY"]) == ("6.1.0", "5", "6")
    assert "Headers for 6.1.0 have been added to the cache" in explained
    assert "kheadersctl remove 6.1.0" in explained
