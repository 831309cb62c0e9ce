"""``python3 -m kheadersd``."""

from .daemon import main

main()
