"""The pods of `kubernetes/`: an image out of the project's package, the DaemonSet's pod, and clients."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import container, debian
from tests.support.clients import wait_until
from tests.support.kheaders import RealHeaders
from tests.support.package import package
from tests.support.pods import (
    BPF_OBJECT,
    COMPILE,
    IMAGE,
    PROGRAM,
    Failed,
    Pod,
    Podman,
    documents,
    podman_in,
    why_not,
)
from tests.support.running import REPOSITORY

# Building the image takes half a minute where nothing else runs.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(bool(why_not()), reason=why_not()),
]

BUSCTL = ("busctl", "--address=unix:path=/run/kheaders-bus/bus", "call")
BUS = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
SERVICE = ("org.kheaders.Provide", "/org/kheaders/Provide", "org.kheaders.Provide")


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    # podman refuses a long path, which a worker's of pytest is.
    with tempfile.TemporaryDirectory(prefix="kh-pods-") as name, podman_in(Path(name) / "store") as podman:
        directory = Path(name)
        podman.base("localhost/base", container.base(debian.suite()))
        context = directory / "context"
        context.mkdir()
        shutil.copy(package(), context)
        podman.build(IMAGE, "localhost/base", context)
        yield podman


@pytest.fixture
def volumes(tmp_path: Path, real_headers: RealHeaders) -> dict[str, Path]:
    """The directories of a node that has a kernel with kheaders, and those that the pods share."""
    directories = {
        name: tmp_path / name for name in ("cache", "bus", "modules", "sources", "configuration", "headers")
    }
    for directory in directories.values():
        directory.mkdir()
    module = directories["modules"] / real_headers.release / "kernel/kernel/kheaders.ko"
    module.parent.mkdir(parents=True)
    shutil.copy(real_headers.module, module)
    for name in ("bus.conf", "kheadersd.conf"):
        shutil.copy(REPOSITORY / "kubernetes/daemonset" / name, directories["configuration"])
    # An emptyDir is every user's.
    directories["headers"].chmod(0o777)
    return directories


def spec(path: str) -> Any:
    (described,) = documents(Path(path))
    return described["spec"]["template"]["spec"] if described["kind"] == "DaemonSet" else described["spec"]


@pytest.fixture
def daemon(podman: Podman, volumes: dict[str, Path]) -> str:
    """The container of the daemon, ready; its pod is run as the manifest has it."""
    pod = Pod(podman, spec("daemonset/daemonset.yaml"), volumes, [IMAGE])
    pod.run("directories")
    bus = pod.start("bus")
    wait_until(lambda: is_well(pod, "bus", bus, "readinessProbe"), 60)
    daemon = pod.start("kheadersd", pid=bus)
    wait_until(lambda: is_well(pod, "kheadersd", daemon, "startupProbe"), 60)
    for probe in ("readinessProbe", "livenessProbe"):
        pod.probe("kheadersd", daemon, probe)
        pod.probe("bus", bus, probe)
    return daemon


def is_well(pod: Pod, name: str, container: str, probe: str) -> bool:
    try:
        pod.probe(name, container, probe)
    except Failed:
        return False
    return True


def client(podman: Podman, headers: Path, path: str) -> str:
    """What a container with a compiler and no kheadersd makes of headers: the beginning of an object."""
    root = container.base(debian.suite(), *container.COMPILER)
    return podman.run(
        *("podman", "run", "--rm", "--network=none", f"--volume={headers}:{headers}:ro"),
        *(f"--volume={PROGRAM}:/{PROGRAM.name}:ro", f"--env=PROGRAM=/{PROGRAM.name}"),
        *(f"--env=HEADERS={path}", "--rootfs", f"{root}:O"),
        *("sh", "-c", COMPILE),
    )


def test_pods_get_the_headers_of_their_node(
    podman: Podman, daemon: str, volumes: dict[str, Path], real_headers: RealHeaders
) -> None:
    release = real_headers.release
    # A copy, over the socket alone, by the init container of the examples.
    bcc = Pod(podman, spec("examples/bcc.yaml"), volumes, [IMAGE])
    *shell, copy = bcc.container("headers")["command"]
    bcc.run("headers", command=[*shell, copy.replace("export", f"export {release}")])
    assert BPF_OBJECT in client(podman, volumes["headers"], str(volumes["headers"]))
    # In place, in the cache of the node.
    agent = Pod(podman, spec("examples/agent.yaml"), volumes, [IMAGE])
    (path,) = agent.run("agent", command=["kheadersctl", "get", release]).split()
    assert path.startswith(f"/var/cache/kheaders/{release}-")
    held = agent.run(
        "agent",
        command=["kheadersctl", "exec", f"--release={release}", "--", "kheadersctl", "--json", "status"],
    )
    assert json.loads(held)["leases"][0]["release"] == release
    on_node = volumes["cache"] / Path(path).relative_to("/var/cache/kheaders")
    assert BPF_OBJECT in client(podman, volumes["cache"], str(on_node))
    with pytest.raises(Failed, match="Read-only file system"):
        agent.run("agent", command=["touch", f"{path}/include/linux/sched.h"])
    # What the daemon finds installed on the node has the same path in the pod.
    for name, directory in (("modules", "/lib/modules"), ("sources", "/usr/src")):
        (volumes[name] / "of-the-node").touch()
        assert "of-the-node" in agent.run("agent", command=["ls", directory])
    # Root of that pod may do no more than read, and the administrator in the daemon's pod may do all.
    for user in ("0", "48484"):
        with pytest.raises(Failed, match="Access denied"):
            agent.run(
                "agent", f"--user={user}", command=[*BUSCTL, *SERVICE, "Remove", "sa{sv}", release, "0"]
            )
    with pytest.raises(Failed, match=r"denied|not allowed"):
        agent.run("agent", command=[*BUSCTL, *BUS, "RequestName", "su", SERVICE[0], "0"])
    assert podman.exec(daemon, "kheadersctl", "remove", release)
    assert not on_node.exists()


def test_a_probe_fails_when_the_daemon_hangs(podman: Podman, daemon: str, volumes: dict[str, Path]) -> None:
    pod = Pod(podman, spec("daemonset/daemonset.yaml"), volumes, [IMAGE])
    podman.run("podman", "kill", "--signal=STOP", daemon)
    with pytest.raises(Failed):
        pod.probe("kheadersd", daemon, "livenessProbe")
    podman.run("podman", "kill", "--signal=CONT", daemon)
    pod.probe("kheadersd", daemon, "livenessProbe")
    # As the kubelet ends it: within its 10 seconds, without an error.
    podman.run("podman", "stop", "--time=10", daemon)
    assert podman.run("podman", "inspect", "--format={{.State.ExitCode}}", daemon).strip() == "0"
