"""The manifests of `kubernetes/` played by podman as a kubelet has them: the DaemonSet, and pods of its node.

The node is a container of Debian 13, the oldest whose podman knows a DaemonSet. It has no network.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support import debian, store
from tests.support.container import COMPILER, PODMAN, Container, base, running
from tests.support.kheaders import RealHeaders
from tests.support.package import KIND, package
from tests.support.pods import BPF_OBJECT, COMPILE, IMAGE, KUBERNETES, PROGRAM, documents

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Seconds; all of it takes one minute where nothing else runs.
LIMIT = 240

CLIENT_IMAGE = "localhost/client"
"""Has a compiler and no kheadersd."""

DAEMON = "kheadersd-pod-kheadersd"
"""What podman calls the container of the daemon."""

# The machine's limits may be lower than podman's own, and cgroups without controllers have none.
_CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
pids_limit = 0
"""
# Layers of overlays have to be on another file system than the container's.
_SET_UP = """\
mount -t tmpfs tmpfs /var/lib/containers
mkdir -p /lib/modules/{release}/kernel/kernel /usr/src
cp /srv/made/kheaders.ko /lib/modules/{release}/kernel/kernel/
tar -C /srv/client -c . | podman import --quiet - {client}
podman build --isolation=chroot --pull=never --quiet --build-arg=BASE={client} --tag={image} \
    --file=/srv/kubernetes/Containerfile {context}
"""


@pytest.fixture
def node(tmp_path: Path, real_headers: RealHeaders) -> Iterator[Container]:
    """One that has a kernel with kheaders, both images and podman, and has played the DaemonSet."""
    binds = {
        "/srv/client": base(debian.suite(), *COMPILER),
        "/srv/kubernetes": KUBERNETES,
        "/srv/made": real_headers.module.parent,
    }
    context = Path("/srv/deb", package().relative_to(store.directory(KIND))).parent
    with running("kube-play", tmp_path, binds, PODMAN, "trixie") as node:
        node.write("/etc/containers/containers.conf", _CONFIGURATION)
        names = {"release": real_headers.release, "client": CLIENT_IMAGE, "image": IMAGE}
        node.shell(_SET_UP.format(context=context, **names), timeout=2 * LIMIT)
        try:
            play(node, *daemonset())
            # The startup probe's result.
            healthy = f'[ "$(podman inspect --format={{{{.State.Health.Status}}}} {DAEMON})" = healthy ]'
            node.wait_for(healthy, LIMIT)
            yield node
        finally:
            # The end of the node would wait for containers.
            node.run("podman", "pod", "rm", "--all", "--force", "--time=1", timeout=LIMIT)


def daemonset() -> Iterator[dict[str, Any]]:
    """What ``kubectl apply -k`` creates, without limits: the cgroups of the node may have no controllers."""
    (kustomization,) = documents(Path("daemonset/kustomization.yaml"))
    for made in kustomization["configMapGenerator"]:
        yield config_map(made["name"], {name: KUBERNETES / "daemonset" / name for name in made["files"]})
    for name in kustomization["resources"]:
        for document in documents(Path("daemonset") / name):
            if document["kind"] == "DaemonSet":
                spec = document["spec"]["template"]["spec"]
                for container in (*spec["initContainers"], *spec["containers"]):
                    del container["resources"]
            yield document


def config_map(name: str, files: Mapping[str, Path]) -> dict[str, Any]:
    data = {key: path.read_text() for key, path in files.items()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def example(name: str, image: str, command: list[str]) -> dict[str, Any]:
    """An example's pod, whose container has an image and a command of the test's, and runs once."""
    (pod,) = documents(Path("examples", f"{name}.yaml"))
    pod["spec"]["restartPolicy"] = "Never"
    (container,) = pod["spec"]["containers"]
    container.update(image=image, command=command)
    return pod


def play(node: Container, *objects: dict[str, Any]) -> None:
    # JSON is YAML.
    node.write("/root/play.yaml", "\n---\n".join(map(json.dumps, objects)))
    node.do("podman", "kube", "play", "--network=none", "/root/play.yaml", timeout=LIMIT)


def end(node: Container, container: str) -> tuple[str, str]:
    """The exit status of a container that was played, and all that it has printed."""
    status = node.do("podman", "wait", container, timeout=LIMIT)
    logs = node.run("podman", "logs", container)
    return status, logs.stdout + logs.stderr


def test_pods_of_a_node_are_played(node: Container, real_headers: RealHeaders) -> None:
    release = real_headers.release
    # A copy, over the socket alone; the running kernel is another one.
    bcc = example("bcc", CLIENT_IMAGE, ["sh", "-c", f"HEADERS=$BCC_KERNEL_SOURCE\n{COMPILE}"])
    (copying,) = bcc["spec"]["initContainers"]
    copying["command"][-1] = copying["command"][-1].replace("export", f"export {release}")
    (client,) = bcc["spec"]["containers"]
    client["env"].append({"name": "PROGRAM", "value": f"/program/{PROGRAM.name}"})
    client["volumeMounts"].append({"name": "program", "mountPath": "/program"})
    bcc["spec"]["volumes"].append({"name": "program", "configMap": {"name": "program"}})
    play(node, config_map("program", {PROGRAM.name: PROGRAM}), bcc)
    status, output = end(node, "bcc-bcc")
    assert (status, BPF_OBJECT in output) == ("0", True), output
    # Root of a privileged pod with the socket manages nothing, and the daemon's own pod does.
    play(node, example("agent", IMAGE, ["kheadersctl", "remove", release]))
    status, output = end(node, "agent-agent")
    assert (status, "may manage the cache" in output) == ("4", True), output
    assert f"/{release}-" in node.do("sh", "-c", "ls -d /var/cache/kheaders-pods/*")
    node.do("podman", "exec", DAEMON, "kheadersctl", "remove", release, timeout=LIMIT)
    assert f"/{release}-" not in node.do("sh", "-c", "ls -d /var/cache/kheaders-pods/* || true")
    # What the liveness probe finds when the daemon hangs.
    node.do("podman", "healthcheck", "run", DAEMON, timeout=LIMIT)
    node.do("podman", "kill", "--signal=STOP", DAEMON)
    assert node.run("podman", "healthcheck", "run", DAEMON, timeout=LIMIT).returncode == 1
