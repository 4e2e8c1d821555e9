"""Token mixers and the attention kernels under them."""
