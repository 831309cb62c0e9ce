"""Linux and asyncio, and nothing of kernel headers."""
