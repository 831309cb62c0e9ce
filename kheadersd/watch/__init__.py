"""What changes on the host by itself: modules that come and go, kernels that are installed and removed."""
