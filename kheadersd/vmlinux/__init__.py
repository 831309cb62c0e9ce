# SPDX-License-Identifier: LGPL-2.1-or-later
"""vmlinux.h: a kernel's types without its headers, from the BTF that the kernel has of itself."""
