"""Measures and prints a table: ``python tests/bench``, or ``python -m bench`` in tests/. Asserts nothing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

_TESTS = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_TESTS), str(_TESTS.parent)]

from kheaders.make import make_real_headers  # noqa: E402

from bench import calls, extraction, precompiled, resources  # noqa: E402
from bench.measure import Result, note, table  # noqa: E402
from bench.rig import make_rig  # noqa: E402

_ROWS = {
    row.__name__: row
    for row in (
        extraction.tar,
        extraction.tarfile,
        calls.cached,
        extraction.callers,
        resources.memory,
        calls.growth,
        resources.start,
        precompiled.corpus,
        precompiled.bcc,
        precompiled.making,
        precompiled.left,
        calls.cached_pch,
    )
}


def _parse_arguments() -> argparse.Namespace:
    rows = "\n".join(f"  {name:10}{row.__doc__}" for name, row in _ROWS.items())
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
    if unknown := set(arguments.rows) - set(_ROWS):
        parser.error(f"there is no row {', '.join(sorted(unknown))}: the rows are {', '.join(_ROWS)}")
    return arguments


def main() -> None:
    arguments = _parse_arguments()
    results: list[Result] = []
    with make_rig(arguments.directory, make_real_headers(), quick=arguments.quick) as rig:
        for name in arguments.rows or _ROWS:
            note(f"{name}: {_ROWS[name].__doc__}")
            results += _ROWS[name](rig)
        print(
            f"Headers of {rig.release}, {rig.archive.stat().st_size} bytes, files in {arguments.directory}; "
            "medians of interleaved rounds, caches warm.\n"
        )
    print(table(results))


if __name__ == "__main__":
    main()
