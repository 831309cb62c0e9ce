"""The machine: its kernels, its modules and who loads them."""
