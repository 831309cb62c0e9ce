# SPDX-License-Identifier: LGPL-2.1-or-later
"""apt's commands, run with the host's configuration; they write only to a directory of the daemon's own.

Of the host's, the sources, keys, pins, proxies and lists are read; nothing is locked, updated or changed,
and none of the hooks in its configuration is run.

Of a host below another root only the sources, keys, pins and lists are read: apt.conf names programs, and
they would run on this machine, which is not theirs. What such an image says of its packages is believed, even
that a source needs no signature ("trusted=yes", "signed-by"): only that image is served with them.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import KheadersError
from ..sandbox.child import run
from ..sandbox.command import Command, Finished, Run
from ..sandbox.runners import network_runner
from ..system.files import UnfitFile, read_text
from .apt_output import fraction_done
from .package_work import PackageWork, clean_environment
from .source import NotFound, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..host.host import Host

_SANDBOX_USER = "_apt"  # APT::Sandbox::User of every Debian

_OPTIONS = {
    # What is on offer matters, not what is installed; and nothing installed is taken for a download.
    "Dir::State::status": "/dev/null",
    # Built in memory: 1 s each time, instead of 100 MB on disk.
    "Dir::Cache::pkgcache": "",
    "Dir::Cache::srcpkgcache": "",
    "APT::Get::AllowUnauthenticated": "false",
    "Acquire::AllowInsecureRepositories": "false",
    "Acquire::AllowDowngradeToInsecureRepositories": "false",
    "Acquire::AllowWeakRepositories": "false",
    "Acquire::Languages": "none",
    "Acquire::GzipIndexes": "true",
    # A name that is not known is not taken for a regular expression, in which "." is any character.
    "APT::Cmd::Pattern-Only": "true",
    "APT::Color": "false",
    "APT::Status-Fd": "1",
}

# Read behind the host's files, so that it wins. The hooks would run commands of the host's, and of the
# indexes only that of the packages is of use.
_LAST_CONFIGURATION = """\
#clear APT::Update;
#clear DPkg;
#clear Acquire::IndexTargets;
Acquire::IndexTargets::deb::Packages {
    MetaKey "$(COMPONENT)/binary-$(ARCHITECTURE)/Packages";
    flatMetaKey "Packages";
    ShortDescription "Packages";
    Description "$(RELEASE)/$(COMPONENT) $(ARCHITECTURE) Packages";
    Optional "no";
};
"""

_METHODS = "/usr/lib/apt/methods"
# What an image's sources may use. Not file, copy, cdrom and mirror: they would read files of this machine.
_METHODS_FOR_IMAGES = ("http", "https", "gpgv", "sqv", "store", "rred")
_NO_DIRECTORY = f"{_METHODS}/store"  # a file: no path leads through it, whatever ".." follows

# Of this machine's apt, with what it has built in.
_FOR_IMAGES = f"""\
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
#clear Dir::Bin::methods;
#clear Dir::Bin::solvers;
#clear Dir::Bin::planners;
Dir::Bin::methods "{_NO_DIRECTORY}";
APT::Sandbox::User "{_SANDBOX_USER}";
#clear Acquire::http::Proxy-Auto-Detect;
#clear Acquire::http::ProxyAutoDetect;
#clear Acquire::https::Proxy-Auto-Detect;
#clear Acquire::https::ProxyAutoDetect;
"""


class AptCommands:
    """Runs apt's commands.

    Args:
        host: whose configuration is used; of one below another root, what the module's description says.
            Keys that it names by an absolute path are taken from this machine.
        work: the directory that they run in.
    """

    def __init__(self, host: Host, work: PackageWork) -> None:
        self._host = host
        self._work = work
        self._preparing = threading.Lock()

    def prepare(self) -> None:
        """Make the directory if it is not there; the first time, remove what a crash left in it. Blocks.

        Raises:
            NotFound: the root has a name that apt's configuration cannot express.
            NotFound: something in an image's configuration is no file, or leads out of the image.
            KheadersError: the directory cannot be made.
        """
        root = str(self._host.root)
        if re.search(r'["\n\\;]', root):
            raise NotFound(Reason.UNSUPPORTED, f"apt cannot be told to use the root {root!r}")
        if not self._host.is_live:
            _check_files(self._host)
        self._work.prepare()
        last = _LAST_CONFIGURATION
        try:
            with self._preparing:
                (self._work.directory / "lists").mkdir(mode=0o755, exist_ok=True)
                if not self._host.is_live:
                    for_image = _FOR_IMAGES + _methods_for_images()
                    last += for_image
                    _write_whole(self._first_configuration, f'Dir "{root}/";\n{for_image}')
                _write_whole(self._last_configuration, last)
        except OSError as error:
            raise KheadersError(
                f"cannot use {self._work.directory} to run apt in: {error.strerror}"
            ) from error

    def environment(self) -> dict[str, str]:
        """The variables with which apt is run."""
        environment = clean_environment()
        if not self._host.is_live:
            environment["APT_CONFIG"] = str(self._first_configuration)
        return environment

    async def run(
        self,
        lists: Path,
        command: Sequence[str],
        seconds: float,
        scratch: Path | None = None,
        report: Callable[[float], None] | None = None,
    ) -> Finished:
        """Run a command with the host's configuration, which may take ``seconds``.

        Args:
            scratch: for a command that downloads, which writes to ``lists``, or to "packages" in this
                directory; None for a command that only reads.
            report: called with the fraction of the download that is done; the output is not kept then.

        Raises:
            Timeout: see `sandbox.child.run`.
            KheadersError: it cannot be run.
        """
        options = {
            **_OPTIONS,
            "Dir::State::lists": str(lists),
            "Dir::Cache": str(self._work.directory / "cache"),
        }
        arguments = [f"--config-file={self._last_configuration}"]
        arguments += [f"--option={key}={value}" for key, value in options.items()]
        environment, directory = self.environment(), self._work.directory
        run_it: Run = run
        if scratch is not None:
            directory = scratch / "packages"
            environment["TMPDIR"] = str(scratch / "tmp")
            run_it = network_runner()  # what it writes comes from the network

        on_line = functools.partial(_report_line, report) if report is not None else None
        try:
            words = [command[0], *arguments, *command[1:]]
            return await run_it(Command(words, environment, seconds, directory, on_line=on_line))
        except OSError as error:
            raise KheadersError(f"cannot run {command[0]} in {directory}: {error.strerror}") from error

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Path]:
        """As `PackageWork.scratch`, for apt.

        As root, apt downloads as a user of its own, who has to be able to get there and to write there; where
        he cannot get there, apt stays root.
        """
        with self._work.scratch() as path:
            path.chmod(0o711)
            for name in ("packages", "tmp"):
                if os.geteuid() == 0:
                    with contextlib.suppress(LookupError):
                        shutil.chown(path / name, user=_SANDBOX_USER)
            yield path

    @property
    def _first_configuration(self) -> Path:
        """Read in front of the host's files, so that it says where these are."""
        return self._work.directory / "first.conf"

    @property
    def _last_configuration(self) -> Path:
        return self._work.directory / "last.conf"


def _report_line(report: Callable[[float], None], line: str) -> None:
    if (fraction := fraction_done(line)) is not None:
        report(fraction)


def _methods_for_images() -> str:
    """The methods one by one, by which apt finds them before it looks into the directory.

    A source's address begins with its method's name, in which apt takes "../" as it comes: in the directory
    of the methods that would be any program anywhere.
    """
    return "".join(
        f'Dir::Bin::methods::{name} "{_METHODS}/{name}";\n'
        for name in _METHODS_FOR_IMAGES
        if Path(_METHODS, name).exists()
    )


def _check_files(host: Host) -> None:
    """Refuse an image in whose configuration apt would come to files of this machine, or wait for a FIFO.

    Raises:
        NotFound: there is a link that leads out of the image, or something that is no file and no directory.
    """
    tops = (host.path("etc/apt"), host.path("var/lib/apt/lists"))
    found = list(tops)
    for directory, directories, files in itertools.chain.from_iterable(map(os.walk, tops)):
        found += [Path(directory, name) for name in (*directories, *files)]
    for path in found:
        real = Path(os.path.realpath(path))
        if not real.is_relative_to(host.root):
            raise NotFound(
                Reason.UNSUPPORTED, f"apt cannot be told to follow {path} in the image: it leads out of it"
            )
        if real.exists() and not (real.is_file() or real.is_dir()):
            raise NotFound(
                Reason.UNSUPPORTED, f"apt is not run with {path} in the image: it is no file and no directory"
            )


def _write_whole(path: Path, text: str) -> None:
    """Give a file this content, unless it has it; another apt that reads it now sees all or nothing of it."""
    try:
        if read_text(path) == text:
            return
    except (FileNotFoundError, UnfitFile):
        pass
    new = path.with_suffix(".new")
    new.write_text(text, encoding="utf-8")
    new.replace(path)
