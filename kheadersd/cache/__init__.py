# SPDX-License-Identifier: LGPL-2.1-or-later
"""Entries on the disk: extracted, published, leased, verified, pruned and removed."""
