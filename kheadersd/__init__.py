# SPDX-License-Identifier: LGPL-2.1-or-later
"""Kernel headers of the running kernel, for every tracing tool on the host, through one D-Bus service."""

__version__ = "0.1.0"
