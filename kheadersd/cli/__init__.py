"""The command ``kheadersctl``, a client of the bus like any other."""
