"""vmlinux.h: a kernel's types without its headers, from the BTF that the kernel has of itself."""

SOURCE = "btf"
"""Where entries with a vmlinux.h come from."""
