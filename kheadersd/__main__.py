"""``python3 -m kheadersd``."""

from .daemon.main import main

main()
