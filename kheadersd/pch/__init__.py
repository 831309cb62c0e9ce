"""Precompiled headers."""
