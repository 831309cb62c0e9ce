"""One QEMU process: started, watched, frozen into a file, and ended without a trace."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.vm.image import Image

MEMORY = 768
"""MiB. bcc's compiler takes about 200 of them."""

HARDWARE = (
    # Its clock counts instructions, 2 ns each, and real time only while it has nothing to do: what takes how
    # long inside is the same on a fast machine, on a slow one, and on one that is busy with other things.
    f"-M q35 -accel tcg,tb-size=256 -icount shift=1 -cpu qemu64,-svm -smp 1 -m {MEMORY} "
    "-nodefaults -display none -device virtio-blk-pci,drive=disk -device virtio-rng-pci "
    "-device virtio-serial-pci -device virtserialport,chardev=agent,name=tests"
)
"""What a frozen machine must find again, in QEMU's words."""

_KERNEL_ARGUMENTS = "console=ttyS0 root=/dev/vda rw quiet systemd.show_status=0"
_END = 60.0  # seconds for QEMU to start, to answer, and to end after it was told to
_SAVE = 600.0  # seconds for the state of a machine to be written


class MachineFailed(Exception):
    """The machine is gone, or does not do what it was told; the message has its last words."""


class Machine:
    """An emulated computer with a disk layer of its own on top of an image.

    Attributes:
        directory: everything that it writes: disk layer, sockets, console.
        kernel, initrd: what it boots the next time it is switched on; the image's, unless they are set.
    """

    def __init__(self, image: Image, *, below: Path | None = None) -> None:
        """
        Args:
            below: the disk layer to put its own on; without one, the image's disk.
        """
        # A short name: the path of a socket has at most 107 characters.
        self.directory = Path(tempfile.mkdtemp(prefix="guest-"))
        self.kernel, self.initrd = image.kernel, image.initrd
        self._process: subprocess.Popen[bytes] | None = None
        backing, kind = (below, "qcow2") if below is not None else (image.disk, "raw")
        command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(backing), "-F", kind, str(self.disk)]
        subprocess.run(command, check=True, timeout=60)

    @property
    def disk(self) -> Path:
        return self.directory / "disk.qcow2"

    @property
    def agent(self) -> Path:
        """The socket of the port that the agent inside listens on."""
        return self.directory / "agent"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, state: Path | None = None) -> None:
        """Switch it on.

        Args:
            state: what `save` wrote, of a machine with the same image and disk layer: it goes on from there.
        """
        command = self._command()
        if state is not None:
            command += ["-incoming", f"exec:cat '{state}'"]
        with (self.directory / "qemu.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        if state is not None:
            self._go_on()

    def _go_on(self) -> None:
        """It was frozen standing still, and does so until it is told to go on."""
        deadline = time.monotonic() + _END
        while True:
            try:
                with self._control() as execute:
                    while execute("query-status")["status"] == "inmigrate":
                        time.sleep(0.01)
                    execute("cont")
                return
            except OSError as error:  # it does not listen yet
                if not self.running or time.monotonic() > deadline:
                    raise MachineFailed(f"QEMU did not start: {self.console()[-2000:]}") from error
                time.sleep(0.01)

    def _command(self) -> list[str]:
        directory = self.directory
        connections = [
            # Should the tests be killed, it goes with them.
            "setpriv --pdeathsig KILL qemu-system-x86_64",
            HARDWARE,
            f"-kernel {self.kernel} -initrd {self.initrd}",
            f"-serial file:{directory}/console",
            # The disk's cache is this machine's memory. What the guest has flushed survives it being killed.
            f"-drive file={self.disk},if=none,id=disk,format=qcow2,cache=unsafe",
            f"-chardev socket,id=agent,path={self.agent},server=on,wait=off",
            f"-qmp unix:{directory}/qmp,server=on,wait=off",
        ]
        return [*" ".join(connections).split(), "-append", _KERNEL_ARGUMENTS]

    def console(self) -> str:
        """What the kernel and QEMU had to say."""
        said = []
        for name in ("qemu.log", "console"):
            with contextlib.suppress(FileNotFoundError):
                said.append((self.directory / name).read_text(errors="replace"))
        return "".join(said)

    @property
    def came_to_its_disk(self) -> bool:
        """Whether the last start got so far that something of the disk could run."""
        said = self.console()
        return said.rfind("initrd: has the disk") > said.rfind("initrd: begins")

    def save(self, state: Path) -> None:
        """Freeze it into a file, to go on from there any number of times, and end it.

        Its disk layer must be kept as it is then.

        Raises:
            MachineFailed: it could not be saved.
        """
        with self._control() as execute:
            execute("stop")
            execute("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            execute("migrate", uri=f"exec:cat >'{state}'")
            deadline = time.monotonic() + _SAVE
            while (status := execute("query-migrate").get("status")) != "completed":
                if status in ("failed", "cancelled") or time.monotonic() > deadline:
                    raise MachineFailed(f"its state could not be written to {state}: {status}")
                time.sleep(0.05)
            execute("quit")
        self._wait(_END)

    @contextlib.contextmanager
    def _control(self) -> Iterator[Any]:
        """QEMU's own protocol: ``execute(name, **arguments)`` returns the answer."""
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rwb") as stream:
            connection.settimeout(_END)
            connection.connect(str(self.directory / "qmp"))
            stream.readline()

            def execute(name: str, **arguments: object) -> Any:
                stream.write(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")
                stream.flush()
                while line := stream.readline():
                    answer = json.loads(line)
                    if "return" in answer:
                        return answer["return"]
                    if "error" in answer:
                        raise MachineFailed(f"{name}: {answer['error']['desc']}")
                raise MachineFailed(f"QEMU ended at '{name}': {self.console()[-2000:]}")

            execute("qmp_capabilities")
            yield execute

    def wait_for_end(self, seconds: float) -> None:
        """Wait until it has switched itself off.

        Raises:
            MachineFailed: it has not.
        """
        try:
            self._wait(seconds)
        except subprocess.TimeoutExpired:
            raise MachineFailed(
                f"it runs still, after {seconds:g} seconds: {self.console()[-2000:]}"
            ) from None

    def _wait(self, seconds: float) -> None:
        if self._process is not None:
            self._process.wait(seconds)

    def kill(self) -> None:
        """Cut its power. The disk layer stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_END)
            self._process = None
        for name in ("agent", "qmp"):
            (self.directory / name).unlink(missing_ok=True)

    def remove(self) -> None:
        """End it, and remove all that it wrote."""
        self.kill()
        shutil.rmtree(self.directory)
