"""What is kept: entries, how they come and go on the disk, and the leases that hold them."""
