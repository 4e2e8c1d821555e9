"""The operators, each with a plain PyTorch reference and fast paths behind one call."""
