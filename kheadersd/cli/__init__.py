# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command ``kheadersctl``, a client of the bus like any other."""
