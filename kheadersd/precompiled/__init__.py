# SPDX-License-Identifier: LGPL-2.1-or-later
"""Precompiled headers for unmodified bcc tools: runs in the tool's own process, with the system's Python.

Nothing here imports anything else of kheadersd, or a library that bcc does not need: a tool starts as fast as
without it, and works with whatever Python it was installed for.
"""
