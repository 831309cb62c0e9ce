# SPDX-License-Identifier: LGPL-2.1-or-later
"""Linux and asyncio, and nothing of kernel headers."""
