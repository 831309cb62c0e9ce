"""A registry, and the units that push to it and fetch from it, each with its own credentials."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.container import REGISTRY, Container, running
from tests.support.kheaders import RealHeaders
from tests.support.oci_registry import (
    CONFIGURATION,
    Certificates,
    ContainersDirectory,
    SigningKey,
    credentials,
    write_passwords,
)
from tests.support.package import package
from tests.systemd.conftest import serve_other_host

pytestmark = pytest.mark.slow

NAME = "localhost:5443"  # Debian's own docker-registry.service has 5000
LOOKASIDE = "/var/lib/containers/sigstore"
SIGNATURES = "http://localhost:5080"
"""What the directory is for other nodes."""

# What was made on this machine is below /srv/made-for-registry.
_SET_UP = """\
cp -r /srv/made-for-registry /root/registry
mkdir -p {lookaside} /etc/kheadersd
chmod 755 /var/lib/containers {lookaside}
cp -r /root/registry/containers /etc/
chmod -R go+rX /etc/containers
install -m 600 /root/registry/push.json /etc/kheadersd/push-auth.json
install -m 600 /root/registry/fetch.json /etc/kheadersd/registry-auth.json
install -m 600 /root/registry/key/private.asc /etc/kheadersd/push-key.asc
install -m 644 /root/registry/key/public.gpg /etc/containers/push-key.gpg
install -m 600 /root/registry/pch-key/private.asc /etc/kheadersd/pch-key.asc
install -m 644 /root/registry/pch-key/public.gpg /etc/kheadersd/pch-key.gpg
systemd-run --quiet --unit=registry docker-registry serve /root/registry/config.yml
systemd-run --quiet --unit=signatures python3 -m http.server --directory {lookaside} --bind localhost 5080
"""

_SET_UP_OTHER = """\
mkdir -p /etc/kheadersd
cp -r /srv/made-for-registry/containers /etc/
chmod -R go+rX /etc/containers
install -m 600 /srv/made-for-registry/fetch.json /etc/kheadersd/registry-auth.json
install -m 644 /srv/made-for-registry/key/public.gpg /etc/containers/push-key.gpg
"""


@pytest.fixture(scope="module")
def for_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates, passwords, keys and configurations."""
    made = tmp_path_factory.mktemp("registry")
    certificates = Certificates(made)
    write_passwords(made / "htpasswd")
    (made / "config.yml").write_text(CONFIGURATION.format(directory="/root/registry", port=5443))
    SigningKey(made / "key")
    SigningKey(made / "pch-key")
    containers = ContainersDirectory(made / "containers", NAME, certificates.authority)
    containers.trust({"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/etc/containers/push-key.gpg"})
    shutil.rmtree(containers.lookaside)
    places = dict.fromkeys(("lookaside", "lookaside-staging"), f"file://{LOOKASIDE}")
    (containers.path / "registries.d/default.yaml").write_text(json.dumps({"docker": {NAME: places}}))
    credentials(made / "push.json", NAME, "pusher")
    credentials(made / "fetch.json", NAME, "fetcher")
    return made


@pytest.fixture(scope="module")
def node(
    tmp_path_factory: pytest.TempPathFactory, real_headers: RealHeaders, for_registry: Path
) -> Iterator[Container]:
    """One with a registry, that the project is installed on."""
    binds = {"/srv/made": real_headers.module.parent, "/srv/made-for-registry": for_registry}
    with running("registry", tmp_path_factory.mktemp("node"), binds, REGISTRY) as container:
        container.install(package())
        container.shell(_SET_UP.format(lookaside=LOOKASIDE))
        container.wait_for("python3 -c 'import socket; socket.create_connection((\"localhost\", 5443))'")
        configure(container, "kernels")
        serve_other_host(container, real_headers)
        yield container


@pytest.fixture(scope="module")
def other_node(
    tmp_path_factory: pytest.TempPathFactory, node: Container, real_headers: RealHeaders, for_registry: Path
) -> Iterator[Container]:
    """One of the same network and kernel, that has neither the module nor a package."""
    binds = {"/srv/made-for-registry": for_registry}
    directory = tmp_path_factory.mktemp("other")
    with running("other", directory, binds, REGISTRY, network=node) as container:
        container.install(package())
        container.shell(_SET_UP_OTHER)
        container.write(
            "/etc/containers/registries.d/default.yaml",
            json.dumps({"docker": {NAME: {"lookaside": SIGNATURES}}}),
        )
        container.write("/etc/kheadersd.conf.d/registry.conf", f"[Registry]\nRegistry={NAME}/kernels\n")
        serve_other_host(container, real_headers)
        yield container


def configure(node: Container, repository: str, *settings: str) -> None:
    lines = (
        "[Registry]",
        f"Registry={NAME}/{repository}",
        "PushSigningKey=/etc/kheadersd/push-key.asc",
        *settings,
    )
    node.write("/etc/kheadersd.conf.d/registry.conf", "\n".join((*lines, "")))


def fetched(node: Container, release: str) -> dict[str, str]:
    """The details of headers that are fetched anew."""
    node.run("kheadersctl", "remove", release)
    done = json.loads(node.do("kheadersctl", "--json", "get", "--source", "registry", release))
    assert isinstance(done, dict)
    return done


def test_one_unit_pushes_and_another_fetches(node: Container, real_headers: RealHeaders) -> None:
    release = real_headers.release
    pushed = json.loads(node.do("kheadersctl", "--json", "push", release, f"{NAME}/kernels", timeout=120))
    assert pushed["pushed"]
    details = fetched(node, release)
    assert (details["source"], details["origin"]) == ("registry", pushed["reference"])
    assert details["digest"] == hashlib.sha256(real_headers.archive.read_bytes()).hexdigest()
    assert "kheaders-fetch@" in node.journal("-u", "kheaders-fetch@*")
    assert node.do("ls", "/var/cache/kheaders/.registry") == ""


def test_a_node_without_module_or_package(
    node: Container, other_node: Container, real_headers: RealHeaders
) -> None:
    push = ("kheadersctl", "--json", "push", real_headers.release, f"{NAME}/kernels")
    pushed = json.loads(node.do(*push, timeout=120))
    details = json.loads(other_node.do("kheadersctl", "--json", "get", timeout=120))
    assert (details["release"], details["source"]) == (real_headers.release, "registry")
    assert details["origin"] == pushed["reference"]
    assert details["digest"] == hashlib.sha256(real_headers.archive.read_bytes()).hexdigest()
    assert other_node.do("ls", "/var/cache/kheaders/.registry") == ""


def test_the_daemon_has_no_credentials(node: Container) -> None:
    """The registry demands some, so that the unit has them."""
    for name in ("registry-auth.json", "push-auth.json", "push-key.asc"):
        assert node.run("cat", f"/etc/kheadersd/{name}", user="kheadersd").returncode != 0


def test_what_is_not_signed_is_not_taken(node: Container, real_headers: RealHeaders) -> None:
    node.do("mv", LOOKASIDE, LOOKASIDE + ".away")
    try:
        node.run("kheadersctl", "remove", real_headers.release)
        refused = node.run("kheadersctl", "get", "--source", "registry", real_headers.release)
    finally:
        node.do("mv", LOOKASIDE + ".away", LOOKASIDE)
    assert refused.returncode == 1
    assert "not signed as containers-policy.json(5) demands" in refused.stderr


def test_what_another_host_compiled(node: Container, real_headers: RealHeaders) -> None:
    """It is fetched in one unit, by the daemon's policy on standard input, and tried in another."""
    release = real_headers.release
    configure(
        node,
        "kernels",
        "PushPchSigningKey=/etc/kheadersd/pch-key.asc",
        "PchKey=/etc/kheadersd/pch-key.gpg",
    )
    node.do("systemctl", "reload", "kheadersd.service")
    precompiled = ("kheadersctl", "--json", "pch", "bpf-core", release)
    assert json.loads(node.do(*precompiled, timeout=120))["pch_origin"] == ""
    push = ("kheadersctl", "--json", "push", "--pchs", release, f"{NAME}/kernels")
    (file,) = json.loads(node.do(*push, timeout=120))["files"]
    fetched(node, release)
    taken = json.loads(node.do(*precompiled, timeout=120))
    assert taken["pch_origin"] == file["reference"]
    node.do(
        "sh",
        "-c",
        'echo "#include <linux/sched.h>" | clang "$@" -c -o /dev/null -x c -',
        "sh",
        *taken["arguments"],
    )
    assert node.do("ls", "/var/cache/kheaders/.registry") == ""


def test_a_unit_pushes_what_is_new(node: Container, real_headers: RealHeaders) -> None:
    keys = ("PushPchSigningKey=/etc/kheadersd/pch-key.asc", "PchKey=/etc/kheadersd/pch-key.gpg")
    configure(node, "new", "PushNew=yes", "PushNewPchs=yes", *keys)
    node.do("systemctl", "reload", "kheadersd.service")
    node.do("kheadersctl", "remove", real_headers.release)
    node.do("kheadersctl", "get", "--source", "module-file", real_headers.release)
    precompiled = ("kheadersctl", "--json", "pch", "bpf-core", real_headers.release)
    assert json.loads(node.do(*precompiled, timeout=120))["pch_origin"] == ""
    node.write(
        "/run/systemd/system/kheaders-push.service.d/test.conf",
        "[Service]\nExecStart=\nExecStart=/usr/bin/kheadersctl push --new --within 0\n",
    )
    node.do("systemctl", "daemon-reload")
    node.do("systemctl", "start", "kheaders-push.service")
    node.wait_for('[ "$(systemctl show -P ActiveState kheaders-push.service)" = inactive ]', 60)
    assert "pushed, as" in node.journal("-u", "kheaders-push.service")
    assert fetched(node, real_headers.release)["origin"].startswith(f"{NAME}/new@sha256:")
    assert json.loads(node.do(*precompiled, timeout=120))["pch_origin"].startswith(f"{NAME}/new@sha256:")
    assert node.do("systemctl", "--failed", "--no-legend") == ""
