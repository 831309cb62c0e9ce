# SPDX-License-Identifier: LGPL-2.1-or-later
"""Found through PYTHONPATH by a tool that 'kheadersctl exec --precompiled' runs.

Python imports one sitecustomize only, so this one also runs the distribution's own, which it stands before.
It runs in every Python of the tool, and imports nothing that Python has not loaded by then.
"""

import os
import sys
from importlib.machinery import PathFinder

_HERE = os.path.realpath(__file__ + "/..")
_PACKAGES = os.path.realpath(_HERE + "/../../..")
_NAME = "sitecustomize"


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
    others = [entry for entry in sys.path if os.path.realpath(entry) != _HERE]
    spec = PathFinder.find_spec(_NAME, others)
    if spec is not None and spec.loader is not None:
        module = type(sys)(_NAME)
        module.__spec__, module.__file__ = spec, spec.origin
        spec.loader.exec_module(module)


_hook()
_next()
