"""Compares the daemon with what it replaces and what is possible. See ``python -m tests.bench --help``."""
