"""Measures and prints a table: ``python -m tests.bench``. Asserts nothing.

Each row is printed when it is done. One that cannot be measured is reported, and the others go on; the exit
status is 1 then.
"""

from __future__ import annotations

import argparse
import resource
import sys
import traceback
from pathlib import Path

from tests.bench import calls, extraction, precompiled, resources, tools
from tests.bench.measure import HEADING, note, table
from tests.bench.rig import make_rig
from tests.support.kheaders import make_real_headers

ROWS = {
    row.__name__: row
    for row in (
        extraction.tar,
        extraction.tarfile,
        calls.cached,
        extraction.callers,
        resources.memory,
        calls.growth,
        calls.unheard,
        resources.start,
        precompiled.corpus,
        precompiled.bcc,
        precompiled.making,
        precompiled.left,
        tools.cold,
        tools.tools,
        tools.sharing,
        calls.cached_pch,
    )
}


def _parse_arguments() -> argparse.Namespace:
    rows = "\n".join(f"  {name:10}{row.__doc__}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        prog="bench",
        description="Measures kheadersd beside what it is compared with.",
        epilog=f"rows:\n{rows}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="measure only these; all if none is given")
    parser.add_argument("--quick", action="store_true", help="one round and a tenth of the calls")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path("/dev/shm"),
        help="where archive, cache and extracted files are (default: %(default)s, in memory)",
    )
    arguments = parser.parse_args()
    if unknown := set(arguments.rows) - set(ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}: the rows are {', '.join(ROWS)}")
    return arguments


def main() -> int:
    """Returns the exit status: 1 when a row failed."""
    arguments = _parse_arguments()
    # The bus has a descriptor for each of a thousand callers, and so has the program that is all of them.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    failed = []
    with make_rig(arguments.directory, make_real_headers(), quick=arguments.quick) as rig:
        _put(
            f"Headers of {rig.release}, {rig.archive.stat().st_size} bytes, files in {arguments.directory}; "
            f"medians of interleaved rounds, caches warm.\n\n{HEADING}"
        )
        for name in arguments.rows or ROWS:
            note(f"{name}: {ROWS[name].__doc__}")
            try:
                results = ROWS[name](rig)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other rows are worth having
                note(traceback.format_exc())
                _put(f"{name} failed: {type(error).__name__}: {error}")
                failed.append(name)
            else:
                _put(table(results) or f"{name} has nothing to measure here")
    if failed:
        note(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def _put(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
