# SPDX-License-Identifier: LGPL-2.1-or-later
"""Commands that the daemon does not trust, or may not run itself: in units, or in confined children."""
