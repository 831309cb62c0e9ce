"""Pods of Kubernetes' manifests, run by podman: an image, and the containers of a pod's description.

buildah and podman run in a mount namespace of their own, and keep all that they make below one directory.
Each field of a manifest is translated into podman's option for it; one that is not known here is an error.
What a kubelet does besides is not tried: scheduling, restarts, and probes in time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import yaml

KUBERNETES = Path(__file__).resolve().parents[2] / "kubernetes"

IMAGE = "registry.example/kheadersd"
"""The name that the manifests have for the project's image."""

PROGRAM = Path(__file__).resolve().parents[1] / "count_opens.bpf.c"
"""What clients compile."""

# Both steps of bcc and the kernel's samples: for the host, whose headers these are, and then for BPF.
COMPILE = """\
set -eu
set -- --target=x86_64-linux-gnu -O2 -g -nostdinc -D__KERNEL__ -D__BPF_TRACING__ -D__TARGET_ARCH_x86 \
    -DKBUILD_MODNAME='"x"' -DCC_USING_FENTRY -fno-stack-protector -Wno-everything \
    -isystem "$(clang -print-resource-dir)/include"
for part in arch/x86/include arch/x86/include/generated include arch/x86/include/uapi \
    arch/x86/include/generated/uapi include/uapi include/generated/uapi; do
    set -- "$@" -I"$HEADERS/$part"
done
clang "$@" -include "$HEADERS/include/linux/kconfig.h" -emit-llvm -Xclang -disable-llvm-passes \
    -c "$PROGRAM" -o /tmp/opens.bc
clang --target=bpf -O2 -c -x ir /tmp/opens.bc -o /tmp/opens.o
od -An -tx1 -N20 /tmp/opens.o
"""
"""A shell script that compiles $PROGRAM with the headers in $HEADERS, and prints the object's beginning."""

BPF_OBJECT = "7f 45 4c 46"
"""What `COMPILE` prints, among others."""

# crun does not start with cgroups of both versions, and needs more rights with those of version 2 alone.
_NAMESPACE = """\
! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified
echo ready
exec sleep infinity
"""
_CONFIGURATION = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
pids_limit = 0
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
"""
_IGNORED = {"name", "image", "command", "env", "resources", "securityContext", "volumeMounts"}
_PROBES = {"startupProbe", "readinessProbe", "livenessProbe"}


def documents(path: Path) -> list[dict[str, Any]]:
    """The objects of a file below `KUBERNETES`."""
    return [each for each in yaml.safe_load_all((KUBERNETES / path).read_text()) if each is not None]


class Failed(Exception):
    """A command failed; the message has its output."""


@dataclasses.dataclass
class Podman:
    """podman and buildah in a namespace of their own.

    Attributes:
        directory: for all that they make.
    """

    directory: Path
    _process: subprocess.Popen[bytes]

    def run(self, tool: str, *arguments: str | Path, stdin: IO[bytes] | None = None) -> str:
        """What podman or buildah prints on stdout.

        Raises:
            Failed: its exit status is not 0.
        """
        stores = (f"--root={self.directory / 'root'}", f"--runroot={self.directory / 'run'}")
        done = subprocess.run(
            [
                *("nsenter", f"--target={self._process.pid}", "--mount", "env"),
                f"CONTAINERS_CONF={self.directory / 'containers.conf'}",
                *(tool, *stores, "--storage-driver=overlay", *arguments),
            ],
            stdin=stdin or subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )
        if done.returncode:
            command = " ".join(map(str, (tool, *arguments)))
            raise Failed(f"{command}: {done.returncode} {done.stdout}{done.stderr}")
        return done.stdout

    def base(self, name: str, root: Path) -> None:
        """Make an image of a root directory, pulling nothing."""
        with subprocess.Popen(["tar", "-C", root, "-c", "."], stdout=subprocess.PIPE) as tar:
            self.run("podman", "import", "--quiet", "-", name, stdin=tar.stdout)

    def build(self, name: str, base: str, context: Path) -> None:
        """Build the project's image."""
        self.run(
            *("buildah", "build", "--isolation=chroot", "--pull-never", "--quiet"),
            *(f"--build-arg=BASE={base}", f"--file={KUBERNETES / 'Containerfile'}", f"--tag={name}", context),
        )

    def exec(self, container: str, *command: str) -> str:
        """What a command in a container prints.

        Raises:
            Failed: its exit status is not 0.
        """
        return self.run("podman", "exec", container, *command)


@contextlib.contextmanager
def podman_in(directory: Path) -> Iterator[Podman]:
    """podman, until the block ends, and then nothing that it has started."""
    directory.mkdir()
    (directory / "containers.conf").write_text(_CONFIGURATION)
    process = subprocess.Popen(["unshare", "--mount", "sh", "-ec", _NAMESPACE], stdout=subprocess.PIPE)
    assert process.stdout is not None
    podman = Podman(directory, process)
    try:
        assert process.stdout.readline() == b"ready\n"
        yield podman
    finally:
        # A container whose PID namespace another one shares is removed after that, which takes two attempts.
        for _ in range(2):
            with contextlib.suppress(Failed, subprocess.TimeoutExpired):
                podman.run("podman", "rm", "--all", "--force", "--time=1")
        process.kill()
        process.wait()
        process.stdout.close()
        shutil.rmtree(directory, ignore_errors=True)


@dataclasses.dataclass
class Pod:
    """A pod's description, of which containers are run one by one.

    Args:
        volumes: directories of this machine, by the names of volumes.
        image: what runs, instead of the images that the description names.
    """

    podman: Podman
    spec: Mapping[str, Any]
    volumes: Mapping[str, Path]
    image: Sequence[str]

    def container(self, name: str) -> Mapping[str, Any]:
        """The description of a container."""
        containers = [*self.spec.get("initContainers", []), *self.spec["containers"]]
        (found,) = (each for each in containers if each["name"] == name)
        return found  # type: ignore[no-any-return]

    def run(self, name: str, *more: str, pid: str = "", command: Sequence[str] = ()) -> str:
        """Run a container to its end, and return what it prints.

        Args:
            more: options of podman's.
            command: instead of the description's.

        Raises:
            Failed: its exit status is not 0.
        """
        options = self._options(name, pid)
        return self.podman.run(
            "podman",
            "run",
            "--rm",
            *options,
            *more,
            *self.image,
            *(command or self.container(name)["command"]),
        )

    def start(self, name: str, *, pid: str = "") -> str:
        """Start a container, and return its id."""
        options = self._options(name, pid)
        command = self.container(name)["command"]
        return self.podman.run("podman", "run", "--detach", *options, *self.image, *command).strip()

    def probe(self, name: str, container: str, kind: str) -> None:
        """Run what a probe runs.

        Raises:
            Failed: the probe does.
        """
        self.podman.exec(container, *self.container(name)[kind]["exec"]["command"])

    def _options(self, name: str, pid: str) -> Iterator[str]:
        container = self.container(name)
        unknown = container.keys() - _IGNORED - _PROBES
        assert not unknown, unknown
        yield "--network=none"
        yield "--pull=never"
        if pid:
            assert self.spec["shareProcessNamespace"]
            yield f"--pid=container:{pid}"
        for variable in container.get("env", []):
            yield f"--env={variable['name']}={variable['value']}"
        for mount in container.get("volumeMounts", []):
            mode = "ro" if mount.get("readOnly") else "rw"
            yield f"--volume={self.volumes[mount['name']]}:{mount['mountPath']}:{mode}"
        yield from _security({**self.spec.get("securityContext", {}), **container.get("securityContext", {})})


def _security(context: Mapping[str, Any]) -> Iterator[str]:
    wanted = dict(context)
    if wanted.pop("privileged", False):
        # Root with the rights of any container will do.
        yield "--user=0"
        return
    user, group = wanted.pop("runAsUser"), wanted.pop("runAsGroup", None)
    assert wanted.pop("runAsNonRoot") == (user != 0)
    yield f"--user={user}" if group is None else f"--user={user}:{group}"
    assert wanted.pop("seccompProfile") == {"type": "RuntimeDefault"}, "podman's own is the default"
    if not wanted.pop("allowPrivilegeEscalation"):
        yield "--security-opt=no-new-privileges"
    if wanted.pop("readOnlyRootFilesystem"):
        yield from ("--read-only", "--read-only-tmpfs=false")
    capabilities = wanted.pop("capabilities")
    yield from (f"--cap-drop={name}" for name in capabilities["drop"])
    yield from (f"--cap-add={name}" for name in capabilities.get("add", []))
    assert not wanted, wanted


def why_not() -> str:
    """What this machine lacks to run pods; empty if nothing."""
    if os.geteuid() != 0:
        return "needs root: podman runs containers as it"
    missing = [tool for tool in ("buildah", "podman") if shutil.which(tool) is None]
    return f"no pods here: {' and '.join(missing)} not installed" if missing else ""
