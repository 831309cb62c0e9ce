"""Commands that see an /etc with files of their own: the machine's stays as it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

# Every other name is a link into the machine's own /etc.
_SCRIPT = """
own=$1 machine=$2; shift 2
mount --bind /etc "$machine"
mount -t tmpfs -o mode=755 none /etc
for path in "$machine"/* "$own"/*; do ln -sfn "$path" /etc/; done
exec "$@"
"""


def with_own_etc(own: Path) -> Sequence[str]:
    """The beginning of a command line; as root.

    Args:
        own: a directory whose files and directories are in /etc, in place of the machine's.
    """
    machine = own.with_name(own.name + "-machine")
    machine.mkdir(exist_ok=True)
    return [
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-euc",
        _SCRIPT,
        "sh",
        str(own),
        str(machine),
    ]
