# SPDX-License-Identifier: LGPL-2.1-or-later
"""Precompiled headers for unmodified bcc tools: runs in the tool's own process, with the system's Python.

Nothing here imports anything else of kheadersd, or a library that bcc does not need: a tool starts as fast as
without it, and works with whatever Python it was installed for.
"""

SESSION = "KHEADERS_SESSION"
"""The variable of the environment that, with any value, makes the hook ask the session bus: for trials."""

DROPPED = "KHEADERS_DROPPED"
"""The variable that says that the headers themselves were dropped, and are to be again."""

RELEASE = "KHEADERS_RELEASE"
"""The variable that names the kernel release; without it, the running kernel is meant."""
