"""From an archive to a tree: decompress, read the tar stream, write safely, and record what was written."""
