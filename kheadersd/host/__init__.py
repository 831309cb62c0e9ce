"""The machine, or an image: its kernels, and its kheaders module."""
