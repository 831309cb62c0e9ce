"""vmlinux.h: a kernel's types without its headers, from the BTF that the kernel has of itself."""

SOURCE = "btf"
"""Where entries with a vmlinux.h come from."""

OF_RUNNING = "sys/kernel/btf/vmlinux"
"""What the running kernel shows of itself, below the host's root: its section .BTF, byte by byte."""
