# SPDX-License-Identifier: LGPL-2.1-or-later
"""``python3 -m kheadersd``: the daemon, or one line that says which library this Python lacks."""

import sys


def main() -> None:
    """Run the daemon."""
    try:
        # Not at the top: this imports the D-Bus library.
        from .daemon.main import main as run
    except ImportError as error:
        sys.exit(f"kheadersd: {sys.executable} cannot run kheadersd: {error}")
    run()


if __name__ == "__main__":
    main()
