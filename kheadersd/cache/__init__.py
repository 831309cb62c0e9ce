"""Entries on the disk: extracted, published, leased, verified, pruned and removed."""
