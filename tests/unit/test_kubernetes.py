"""The manifests of `kubernetes/`: whole, least privileged, and each name in one spelling."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from kheadersd import config
from tests.support.running import REPOSITORY

yaml = pytest.importorskip("yaml")

KUBERNETES = REPOSITORY / "kubernetes"
MANIFESTS = sorted(path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml")
KUSTOMIZATIONS = sorted(path.parent for path in KUBERNETES.rglob("kustomization.yaml"))
USER = 48484


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def pod(document: Mapping[str, Any]) -> dict[str, Any]:
    spec = document["spec"]
    return spec["template"]["spec"] if "template" in spec else spec  # type: ignore[no-any-return]


def containers(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [*spec.get("initContainers", []), *spec.get("containers", [])]


def daemonset() -> dict[str, Any]:
    (document,) = documents(KUBERNETES / "daemonset/daemonset.yaml")
    return document


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_object_says_what_it_is(path: Path) -> None:
    for document in documents(path):
        assert {"apiVersion", "kind", "metadata"} <= set(document)
        assert re.fullmatch(r"[a-z0-9-]{1,63}", document["metadata"]["name"])


@pytest.mark.parametrize("directory", KUSTOMIZATIONS, ids=lambda path: path.name)
def test_every_file_is_part_of_a_kustomization(directory: Path) -> None:
    (kustomization,) = documents(directory / "kustomization.yaml")
    files = {name for name in kustomization["resources"] if name.endswith(".yaml")}
    files |= {patch["path"] for patch in kustomization.get("patches", ()) if "path" in patch}
    files |= {name for made in kustomization.get("configMapGenerator", ()) for name in made["files"]}
    assert files | {"kustomization.yaml"} == {path.name for path in directory.iterdir()}
    bases = [name for name in kustomization["resources"] if not name.endswith(".yaml")]
    assert all((directory / name / "kustomization.yaml").exists() for name in bases)


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_every_mount_has_a_volume(path: Path) -> None:
    for document in documents(path):
        if document["kind"] not in ("Pod", "DaemonSet"):
            continue
        spec = pod(document)
        known = {volume["name"] for volume in spec.get("volumes") or pod(daemonset())["volumes"]}
        mounted = {mount["name"] for each in containers(spec) for mount in each.get("volumeMounts", ())}
        assert mounted <= known
        if "volumes" in spec:
            assert mounted == known, "a volume is not used"


def unprivileged() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in MANIFESTS:
        for document in documents(path):
            if document["kind"] in ("Pod", "DaemonSet"):
                spec = pod(document)
                for each in containers(spec):
                    context = {**spec.get("securityContext", {}), **each["securityContext"]}
                    if not context.get("privileged"):  # the clients' own tools load BPF programs
                        yield f"{path.stem}-{each['name']}", context


@pytest.mark.parametrize(("name", "context"), [*unprivileged()], ids=lambda value: str(value)[:20])
def test_containers_have_the_least_privileges(name: str, context: dict[str, Any]) -> None:
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"]["drop"] == ["ALL"]
    wanted = {"directories": ["CHOWN"], "load-module": ["SYS_MODULE"]}
    added = next((value for key, value in wanted.items() if name.endswith(key)), [])
    assert context["capabilities"].get("add", []) == added
    assert (context["runAsUser"] == 0) == bool(added)
    assert context["runAsNonRoot"] is not bool(added)


def test_the_daemon_is_asked_over_the_bus() -> None:
    spec = pod(daemonset())
    assert spec["shareProcessNamespace"], "SharedBus= tells pods by it"
    for each in spec["containers"]:
        for probe in ("readinessProbe", "livenessProbe"):
            command = each[probe]["exec"]["command"]
            assert command[0] == "dbus-send"
            assert command[-1] == "org.freedesktop.DBus.Peer.Ping"
            (limit,) = (word for word in command if word.startswith("--reply-timeout="))
            assert int(limit.partition("=")[2]) < each[probe]["timeoutSeconds"] * 1000


def test_the_user_is_one() -> None:
    image = (KUBERNETES / "Containerfile").read_text()
    assert f"useradd --uid {USER} " in image
    assert f"USER {USER}:{USER}" in image
    assert f'<policy user="{USER}">' in (KUBERNETES / "daemonset/bus.conf").read_text()
    spec = pod(daemonset())
    assert spec["securityContext"]["runAsUser"] == spec["securityContext"]["runAsGroup"] == USER
    assert spec["initContainers"][0]["command"][1] == f"{USER}:{USER}"


def test_the_configuration_is_understood() -> None:
    settings, problems = config.load(KUBERNETES / "daemonset/kheadersd.conf", (), required=True)
    assert problems == ()
    assert settings.shared_bus
    assert settings.loader == "none"
    assert settings.without_polkit == ("extract",)
    assert not {"package", "registry"} & set(settings.sources), "the image has no network"


def test_addresses_are_those_of_the_bus() -> None:
    socket = re.search(r"<listen>(.*)</listen>", (KUBERNETES / "daemonset/bus.conf").read_text())
    assert socket is not None
    assert f"DBUS_SYSTEM_BUS_ADDRESS={socket[1]}" in (KUBERNETES / "Containerfile").read_text()
    for path in (KUBERNETES / "examples").glob("*.yaml"):
        assert "DBUS_SYSTEM_BUS_ADDRESS" not in path.read_text() or socket[1] in path.read_text()


def test_the_page_names_what_is_there() -> None:
    page = (KUBERNETES / "README.md").read_text()
    named = set(re.findall(r"kubectl apply -k kubernetes/([\w-]+)", page))
    assert named == {path.name for path in KUSTOMIZATIONS}
    assert "No cluster was tried" in " ".join(page.split())


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="there is no kubectl")
@pytest.mark.parametrize("directory", KUSTOMIZATIONS, ids=lambda path: path.name)
def test_kubectl_renders_it(directory: Path) -> None:
    command = ["kubectl", "kustomize", str(directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    rendered = list(yaml.safe_load_all(done.stdout))
    assert rendered
    for document in rendered:
        if document["kind"] in ("Pod", "DaemonSet"):
            spec = pod(document)
            known = {volume["name"] for volume in spec["volumes"]}
            assert {mount["name"] for each in containers(spec) for mount in each["volumeMounts"]} == known
    if directory.name == "with-module":
        (served,) = (document for document in rendered if document["kind"] == "DaemonSet")
        assert [each["name"] for each in pod(served)["initContainers"]] == ["load-module", "directories"]
    if directory.name == "examples-host-daemon":
        assert "/run/kheaders-bus/bus" not in done.stdout
        assert "/var/cache/kheaders-pods" not in done.stdout


def test_it_is_not_part_of_the_package() -> None:
    assert not any("kubernetes" in line for line in (REPOSITORY / "pyproject.toml").read_text().splitlines())
