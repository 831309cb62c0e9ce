"""Compares the daemon with what it replaces and with what is possible. See ``python tests/bench --help``."""
