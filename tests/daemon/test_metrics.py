"""The metrics of a whole daemon, read by Prometheus' own node exporter."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import debian
from tests.support.clients import wait_until
from tests.support.running import Bus, Daemon, MakeDaemon, Refused
from tests.support.served_host import ServedHost

pytestmark = pytest.mark.slow


@pytest.fixture
def path(tmp_path: Path) -> Path:
    directory = tmp_path / "run"
    directory.mkdir()
    return directory / "kheadersd.prom"


@pytest.fixture
def daemon(host: ServedHost, bus: Bus, make_daemon: MakeDaemon, path: Path, tmp_path: Path) -> Daemon:
    configuration = tmp_path / "conf"
    configuration.write_text(f"[Metrics]\nTextFile={path}\n")
    return make_daemon(bus, root=host.root, arguments=[f"--config={configuration}"])


@pytest.fixture
def exporter(tmp_path: Path, path: Path) -> Iterator[str]:
    """The address of a node exporter, which finds the file by a link, as the manual has it."""
    package = debian.download(debian.suite(), "prometheus-node-exporter")
    subprocess.run(["dpkg-deb", "-x", package, tmp_path / "exporter"], check=True)
    directory = tmp_path / "textfiles"
    directory.mkdir()
    (directory / "kheadersd.prom").symlink_to(path)
    process = subprocess.Popen(
        [
            tmp_path / "exporter/usr/bin/prometheus-node-exporter",
            *("--collector.disable-defaults", "--collector.textfile"),
            *(f"--collector.textfile.directory={directory}", "--web.listen-address=127.0.0.1:0"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        for line in process.stderr:
            if found := re.search(r"address=(127\.0\.0\.1:[0-9]+)", line):
                yield f"http://{found[1]}/metrics"
                break
        else:
            pytest.fail("the exporter says no address")
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def scraped(address: str) -> dict[str, float]:
    with urllib.request.urlopen(address, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    samples = (line.rpartition(" ") for line in lines if not line.startswith("#"))
    return {name: float(number) for name, _, number in samples}


def use(bus: Bus) -> None:
    """A miss, two hits and a failure."""
    assert bus.call("GetHeaders", "sa{sv}", "", "0")[1]["fresh"] is True
    assert bus.call("GetHeaders", "sa{sv}", "", "0")[1]["fresh"] is False
    assert bus.call("Lookup", "s", "")[1]["source"] == "sysfs"
    assert isinstance(bus.call("GetHeaders", "sa{sv}", "1.2.3-none", "0"), Refused)


def test_a_node_exporter_reads_what_describe_tells(
    bus: Bus, daemon: Daemon, path: Path, exporter: str
) -> None:
    use(bus)
    hits = 'kheadersd_headers_hits_total{source="sysfs"}'
    wait_until(lambda: scraped(exporter).get(hits) == 2)
    found = scraped(exporter)
    assert found["node_textfile_scrape_error"] == 0
    assert found['kheadersd_headers_misses_total{source="sysfs"}'] == 1
    assert found['kheadersd_failures_total{error="NotAvailable"}'] == 1
    assert found["kheadersd_cache_entries"] == 1
    assert found["kheadersd_cache_size_bytes"] == bus.get("CacheBytes")
    assert found['kheadersd_work_duration_seconds_count{work="sysfs"}'] == 1
    assert found['kheadersd_work_failures_total{work="module-file"}'] >= 1
    told = json.loads(bus.call("Describe")[0])["metrics"]
    assert told["headers"]["hits"]["sysfs"] == 2
    assert told["headers"]["misses"]["sysfs"] == 1
    assert told["failures"]["NotAvailable"] == 1
    assert told["last_success"] == found["kheadersd_last_success_timestamp_seconds"]
    assert daemon.stop() == 0
    assert not path.exists()
    assert scraped(exporter)["node_textfile_scrape_error"] == 1, "as the manual says"


def test_the_file_moves_with_the_configuration(bus: Bus, daemon: Daemon, path: Path, tmp_path: Path) -> None:
    wait_until(path.exists)
    other = path.with_name("other.prom")
    (tmp_path / "conf").write_text(f"[Metrics]\nTextFile={other}\n")
    os.kill(daemon.pid, signal.SIGHUP)
    wait_until(lambda: other.exists() and not path.exists())
    assert "kheadersd_cache_entries 0" in other.read_text()
