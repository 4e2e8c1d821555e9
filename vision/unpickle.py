"""What a PyTorch checkpoint holds, without running it: `python unpickle.py CHECKPOINT OUT`.

A program and not a module: it is run in a process of its own that does nothing else. A checkpoint is a pickle, a list
of names to import and to call. Here no name is imported: tensors are made by this file, every class of the libraries
that networks are made of becomes an empty one that keeps what is put into it, and any other name ends the program.

OUT is safetensors: the tensors by name, and as `content` in its metadata, JSON: of a pickled network also the class and
the plain attributes of every module, and what else is plain at the top of the file.
"""

import json
import math
import pickle
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}

# Whose classes become empty ones. None of their code is imported.
KNOWN = ("torch", "ultralytics", "timm", "collections", "argparse", "numpy", "pathlib", "types", "datetime")
# Of Python itself: what methods and plain values are pickled with.
PLAIN = {"set", "frozenset", "getattr", "slice", "complex", "bytearray", "list", "dict", "tuple", "int", "float", "str"}

# Where checkpoints keep what is wanted of them: of several, the average over training steps is the one to use.
WEIGHTS = ("ema", "model_ema", "state_dict_ema", "model", "state_dict")

LARGEST_PICKLE = 2**28
DEEPEST = 40


class Inert:
    """In place of any object: keeps its arguments and state."""

    path = ""

    def __init__(self, *arguments: Any, **keywords: Any):
        self.__dict__["arguments"] = arguments

    def __setstate__(self, state: Any) -> None:
        # With slots a pair, the second of which names are in.
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update(part)

    def __call__(self, *arguments: Any, **keywords: Any) -> "Inert":
        """Methods are pickled as attributes of their objects: they stand for nothing either."""
        return Inert(*arguments)

    def append(self, value: Any) -> None:
        """Lists of other classes."""

    extend = append

    def __setitem__(self, key: Any, value: Any) -> None:
        self.__dict__.setdefault("items", {})[str(key)] = value

    def __hash__(self) -> int:
        return id(self)


class Reader(pickle.Unpickler):
    """Reads the pickle inside a checkpoint.

    Args:
        archive: The checkpoint.
        root: Its folder inside the archive.
    """

    def __init__(self, archive: zipfile.ZipFile, root: str):
        self.archive, self.root, self.storages = archive, root, {}  # type: ignore[var-annotated]
        super().__init__(archive.open(f"{root}/data.pkl"))

    def find_class(self, module: str, name: str) -> Any:
        """What stands for a name; nothing is imported."""
        full = f"{module}.{name}"
        if full == "collections.OrderedDict":
            return OrderedDict
        if full == "torch._utils._rebuild_tensor_v2":
            return self.tensor
        if full in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
            return lambda tensor, *rest: tensor
        if full == "torch.Size":
            return tuple
        if module in ("torch", "torch.storage") and name in (*DTYPES, "UntypedStorage"):
            return name
        if module == "torch" and isinstance(value := getattr(torch, name, None), torch.dtype):
            return value
        if module.partition(".")[0] in KNOWN or (module in ("builtins", "__builtin__") and name in PLAIN):
            return type("Inert", (Inert,), {"path": full})
        raise pickle.UnpicklingError(f"it calls for {full}, which no checkpoint of a network needs")

    def persistent_load(self, pid: Any) -> Any:
        """The numbers of a storage, as one long tensor of bytes, and their type."""
        kind, storage, key, _, _ = pid
        if kind != "storage" or storage not in DTYPES:
            raise pickle.UnpicklingError(f"numbers of an unknown kind, {str(pid)[:80]}")
        if key not in self.storages:
            data = self.archive.read(f"{self.root}/data/{key}")
            self.storages[key] = (
                torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)
            )
        return self.storages[key], DTYPES[storage]

    def tensor(self, storage: Any, offset: int, size: Any, stride: Any, *rest: Any) -> torch.Tensor:
        """A tensor of its own on a storage."""
        numbers, dtype = storage
        numbers = numbers.view(dtype)
        if math.prod(size) > len(numbers):
            raise pickle.UnpicklingError(f"a tensor of {tuple(size)} on {len(numbers)} numbers")
        return numbers.as_strided(tuple(size), tuple(stride), offset).contiguous()


def read(checkpoint: str) -> Any:
    """The object at the top of a checkpoint."""
    if not zipfile.is_zipfile(checkpoint):
        with Path(checkpoint).open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise ValueError("a zip archive that is cut short; download it again")
        raise ValueError("no zip archive, which checkpoints of PyTorch 1.6 and later are; save it again with one")
    with zipfile.ZipFile(checkpoint) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") and name.count("/") == 1]
        if len(pickles) != 1:
            raise ValueError(f"a zip archive with {len(pickles)} data.pkl, not a checkpoint")
        entries = archive.infolist()
        # PyTorch does not compress: a small file cannot ask for much memory then.
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("a compressed archive, which PyTorch does not write")
        if archive.getinfo(pickles[0]).file_size > LARGEST_PICKLE:
            raise ValueError("a pickle far larger than a network's")
        return Reader(archive, pickles[0].partition("/")[0]).load()


def plain(value: Any, depth: int = 6) -> Any:
    """The value if it is made of plain ones, as JSON can hold it; else None."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if depth and isinstance(value, list | tuple | set | frozenset) and len(value) < 10_000:
        return [plain(v, depth - 1) for v in value]
    if depth and isinstance(value, dict) and len(value) < 10_000:
        return {str(k): plain(v, depth - 1) for k, v in value.items()}
    return None


def walk(module: Any, name: str, tensors: dict[str, torch.Tensor], modules: dict[str, Any], depth: int = 0) -> None:
    """The tensors, classes and plain attributes of a pickled module and of those in it."""
    if depth > DEEPEST:
        raise ValueError("modules nested deeper than a network's")
    state = vars(module)
    attributes = {k: plain(v) for k, v in state.items() if not k.startswith("_")}
    modules[name] = {"class": module.path, **{k: v for k, v in attributes.items() if v is not None}}
    for kind in ("_parameters", "_buffers"):
        for own, tensor in dict(state.get(kind) or {}).items():
            if torch.is_tensor(tensor):
                tensors[f"{name}.{own}".lstrip(".")] = tensor
    for own, child in dict(state.get("_modules") or {}).items():
        if isinstance(child, Inert):
            walk(child, f"{name}.{own}".lstrip("."), tensors, modules, depth + 1)


def main(checkpoint: str, out: str) -> None:
    """Writes what the checkpoint holds, or ends with one line that says why not."""
    try:
        content = read(checkpoint)
        top = content if isinstance(content, dict) else {}
        found = next((top[key] for key in WEIGHTS if top.get(key) is not None), content)
        tensors: dict[str, torch.Tensor] = {}
        modules: dict[str, Any] = {}
        if isinstance(found, Inert) and "_modules" in vars(found):
            walk(found, "", tensors, modules)
        elif isinstance(found, dict) and found and all(torch.is_tensor(t) for t in found.values()):
            tensors = {str(name): tensor for name, tensor in found.items()}
        else:
            names = sorted(map(str, found))[:5] if isinstance(found, dict) else type(found).__name__
            places = ", ".join(WEIGHTS)
            raise ValueError(f"neither a network nor tensors by name, under {places} or at the top; there is {names}")
        # Each of its own, as the file to write wants; one that is there under many names must not fill the memory.
        if sum(t.nbytes for t in tensors.values()) > 4 * Path(checkpoint).stat().st_size:
            raise ValueError("the same tensors under many names")
        tensors = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        about = {str(k): v for k, value in top.items() if (v := plain(value)) is not None}
        save_file(tensors, out, {"content": json.dumps({"modules": modules, "about": about})})
    except Exception as error:
        said = str(error).strip().splitlines()
        sys.exit(f"{type(error).__name__}: {said[0] if said else 'no reason'}")


if __name__ == "__main__":
    main(*sys.argv[1:])
