"""The daemon: what it is made of, its interface on the bus, and who may call what."""
