"""Where headers come from, behind one small interface. No source knows the cache."""
