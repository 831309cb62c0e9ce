# SPDX-License-Identifier: LGPL-2.1-or-later
"""Names and limits that callers, the configuration and the journal have in common."""

from __future__ import annotations

TREE = "tree"
SYSFS = "sysfs"
MODULE_FILE = "module-file"
MODULE = "module"
PACKAGE = "package"
REGISTRY = "registry"
SOURCE_NAMES = (TREE, SYSFS, MODULE_FILE, MODULE, PACKAGE, REGISTRY)
"""All sources of headers, in their default order."""

ADVICE = "to have them"
"""What introduces, after the reasons of the sources, how headers are installed on the host."""

SERVICE = "org.kheaders.Provide"
"""The name of the service on the bus, and that of its interface."""

SERVICE_PATH = "/org/kheaders/Provide"
"""The path of the service's object."""

BUS_NAME = "org.freedesktop.DBus"
BUS_PATH = "/org/freedesktop/DBus"
"""The bus's own name, which is that of its interface, too, and the path of its object."""

PROPERTIES = "org.freedesktop.DBus.Properties"
"""The interface of D-Bus by which properties are read."""

MAX_REASON = 256
"""The characters of the reason of a lease, at most."""
