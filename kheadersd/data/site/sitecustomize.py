# SPDX-License-Identifier: LGPL-2.1-or-later
"""Found through PYTHONPATH by a tool that 'kheadersctl exec --precompiled' runs.

Python imports one sitecustomize only, so this one also runs the distribution's own, which it stands before.
"""

import importlib.machinery
import importlib.util
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_PACKAGES = str(_HERE.parents[2])


def _hook() -> None:
    sys.path.insert(0, _PACKAGES)
    try:
        from kheadersd.precompiled.hook import hook_when_imported
    except Exception as error:  # noqa: BLE001 - a tool runs whatever is wrong here
        if sys.stderr is not None:
            sys.stderr.write(f"kheadersd: no precompiled headers: {error!r}\n")
    else:
        hook_when_imported()
    finally:
        sys.path.remove(_PACKAGES)


def _next() -> None:
    others = [entry for entry in sys.path if Path(entry).resolve() != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


_hook()
_next()
