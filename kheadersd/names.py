"""Names that callers, the configuration and the journal have in common."""

from __future__ import annotations

SOURCE_NAMES = ("tree", "sysfs", "module-file", "module", "package")
"""All sources of headers, in their default order."""
