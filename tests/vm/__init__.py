"""The project on a real kernel: a guest of the distribution's own packages, with the real module.

The guest is emulated (QEMU without KVM), so that it runs wherever the suite runs.
"""
