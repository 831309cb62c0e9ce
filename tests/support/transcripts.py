"""What kheadersctl prints on made-up roots of distributions: ``python -m tests.support.transcripts``.

It writes the transcripts of docs/distributions.md to stdout. Each root is made of Debian's real headers, or
of a real kheaders.ko of Debian's kernel, and is served with ``--root`` on a private bus.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.support.ctl_rig import Ctl
from tests.support.kheaders import make_real_headers
from tests.support.layouts import LAYOUTS, Headers, Root, describe, make
from tests.support.running import Bus, Daemon


@dataclasses.dataclass(frozen=True)
class Transcript:
    """What was printed on the root of a distribution.

    Attributes:
        present: of the commands ``status`` and ``get``, where there are headers.
        absent: of ``get``, where there are none.
        codes: the exit codes.
    """

    present: str
    absent: str
    codes: list[int]


@dataclasses.dataclass(frozen=True)
class _Made:
    root: Path
    remove_headers: Callable[[], None]
    remove: Callable[[], None]


def _with_tree(name: str, headers: Headers) -> _Made:
    root, _, _ = make(LAYOUTS[name], headers)
    return _Made(root.root, root.remove_headers, root.remove)


def _with_module(name: str, headers: Headers) -> _Made:
    """A kernel that carries its headers, and a distribution that has no package of them."""
    real = make_real_headers()
    root = Root(headers, real.release)
    if name == "NixOS":
        describe(root.root, LAYOUTS[name].os_release, real.release)
        modules = root.modules("nix/store/0123-linux-modules/lib/modules")
        root.link("run/booted-system/kernel-modules", "/nix/store/0123-linux-modules")
    else:
        text = (
            'ID=flatcar\nID_LIKE=coreos\nPRETTY_NAME="Flatcar Container Linux by Kinvolk 4230.2.3 (Oklo)"\n'
        )
        describe(root.root, text, real.release)
        modules = root.merged()
    module = root.write(f"{modules}/kernel/kernel/kheaders.ko")
    shutil.copyfile(real.module, module)
    return _Made(root.root, module.unlink, root.remove)


DISTRIBUTIONS: dict[str, Callable[[str, Headers], _Made]] = {
    "Fedora": _with_tree,
    "openSUSE": _with_tree,
    "Arch": _with_tree,
    "NixOS": _with_module,
    "Flatcar": _with_module,
}


@contextlib.contextmanager
def served(name: str, headers: Headers) -> Iterator[tuple[_Made, Ctl, Daemon]]:
    """The root of a distribution, a command and a daemon, on a bus of their own."""
    made = DISTRIBUTIONS[name](name, headers)
    directory = Path(tempfile.mkdtemp(prefix="bus-", dir=headers.directory))
    bus = Bus(directory)
    bus.start()
    daemon = Daemon(bus, made.root, directory / "cache", directory / "log")
    try:
        daemon.start()
        yield made, Ctl(bus.address), daemon
    finally:
        status = daemon.stop()
        bus.stop()
        made.remove()
        assert (status, daemon.traceback()) == (0, "")
        shutil.rmtree(directory)


def transcript(name: str, headers: Headers) -> Transcript:
    """Run the commands on the root of a distribution, with headers and then without."""
    with served(name, headers) as (made, ctl, daemon):
        codes: list[int] = []

        def shown(*arguments: str) -> str:
            code, text = ctl.on_terminal(*arguments)
            codes.append(code)
            # Progress replaces itself on its line.
            text = "".join(
                line.rpartition("\x1b[K")[2] + "\n" for line in text.replace("\r\n", "\n").split("\n")
            )
            text = text.replace(str(made.root), "").replace(str(daemon.cache), "/var/cache/kheaders")
            text = re.sub(r"(-[0-9a-f]{12})[0-9a-f]{52}", r"\1…", text)
            return f"# kheadersctl {' '.join(arguments)}\n{text.rstrip()}\n"

        present = shown("status") + shown("get")
        made.remove_headers()
        # The entry of a kernel whose module was removed is good as before.
        for name in daemon.entries():
            ctl("remove", name.rpartition("-")[0])
        return Transcript(present, shown("get"), codes)


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="kh-layouts-", dir="/dev/shm") as directory:
        headers = Headers(Path(directory))
        for name in DISTRIBUTIONS:
            said = transcript(name, headers)
            sys.stdout.write(f"\n### {name}\n\n```console\n{said.present}```\n\nWithout them:\n\n")
            sys.stdout.write(f"```console\n{said.absent}```\n")


if __name__ == "__main__":
    main()
