# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machine, or an image: its kernels, and its kheaders module."""
