# SPDX-License-Identifier: LGPL-2.1-or-later
"""Foreign bytes to values: archives, ELF files, BTF. Nothing here knows what the values are for."""
