"""Kernel headers of the running kernel, for every tracing tool on the host, through one D-Bus service."""

__version__ = "0.1.0"
