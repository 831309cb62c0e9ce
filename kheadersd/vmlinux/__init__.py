"""vmlinux.h: a kernel's types without its headers, from the BTF that the kernel has of itself."""
