"""The tensors of a PyTorch checkpoint, which is a pickle, as safetensors: `python unpickle.py CHECKPOINT OUT`.

A program and not a module: it is run in a process of its own that does nothing else, and lets in tensors and plain
values only (`weights_only`); of the rest PyTorch says what it is, and nothing is run.
"""

import argparse
import sys

import torch
from safetensors.torch import save_file


def main(checkpoint: str, out: str) -> None:
    """Writes the tensors under `model`, or of the whole file where it is nothing but tensors; else ends with a line."""
    try:
        # Training scripts store their arguments along.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no reason'}")
    tensors = content.get("model", content) if isinstance(content, dict) else content
    if not isinstance(tensors, dict) or not tensors or not all(torch.is_tensor(t) for t in tensors.values()):
        found = sorted(map(str, tensors))[:5] if isinstance(tensors, dict) else type(tensors).__name__
        sys.exit(f"no tensors by name, neither under 'model' nor at the top; there is {found}")
    save_file({str(name): tensor.detach().contiguous().clone() for name, tensor in tensors.items()}, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
