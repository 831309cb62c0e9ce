"""Which threads are at work: those that wait for work stay for as long as the process."""

from __future__ import annotations

import threading

from kheadersd.system.tasks import IDLE


def at_work() -> set[threading.Thread]:
    """All threads but the main one and those that wait for work."""
    return {
        thread
        for thread in threading.enumerate()
        if thread is not threading.main_thread() and thread.name != IDLE
    }
