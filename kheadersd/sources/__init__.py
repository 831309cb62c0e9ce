# SPDX-License-Identifier: LGPL-2.1-or-later
"""Where headers come from, behind one small interface. No source knows the cache."""
