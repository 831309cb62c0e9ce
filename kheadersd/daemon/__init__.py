# SPDX-License-Identifier: LGPL-2.1-or-later
"""The daemon: what it is made of, its interface on the bus, and who may call what."""
