"""Foreign bytes to values: archives, ELF files, BTF. Nothing here knows what the values are for."""
