"""One paper's block per file."""
