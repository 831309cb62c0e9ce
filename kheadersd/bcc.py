# SPDX-License-Identifier: LGPL-2.1-or-later
"""bcc's BPF, whose programs have precompiled headers: ``from kheadersd.bcc import BPF``.

Everything else is as in bcc, which has to be installed for the Python that imports this. Where the daemon
gives no precompiled header, a program compiles as without, and one line on stderr says why.
"""

from __future__ import annotations

from bcc import BPF

from .precompiled.hook import hook_when_imported

__all__ = ["BPF"]

hook_when_imported()
