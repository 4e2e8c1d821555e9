"""HieraEdgeNet's published checkpoints as weights of ours: `convert_hieraedge`.

    convert_hieraedge("HieraEdgeNet.pt", "hieraedge-n-reference.safetensors")
    palyno.load("hieraedge-n-reference.safetensors")

The authors' file is a network pickled by their fork of ultralytics 8.3, of scale n, s, m or l, with the head Detect or
RTDETRDecoder. Its layers are followed from the head back to the image and laid beside the rows of our table; each must
be of the same kind, with the same sources, shapes, strides and attention areas, or the file is refused. Two things of
theirs have no place in ours because they change nothing: the Sobel pair, whose answer is discarded (see
`SobelReference`), and a convolution of the omni-kernel that is never called.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ...data.atomic import refuse_existing
from ...errors import PalynoError, RejectedModelError
from ..checkpoint import Checkpoint, read_checkpoint
from ..weights import save_weights
from .detection import build
from .graph import Body

__all__ = ["convert_hieraedge"]

WHAT = "a checkpoint of HieraEdgeNet"

# By the channels of the first convolution; where two agree, the nearer is taken.
CANDIDATES = {
    16: ("hieraedge-n-reference",),
    32: ("hieraedge-s-reference",),
    64: ("hieraedge-m-reference", "hieraedge-l-reference"),
}
NAMES = tuple(name for names in CANDIDATES.values() for name in names)
_STEM = "model.0.blocks.stem.conv.weight"

# Kinds of layers, theirs and ours, and how names inside them differ: from, to, each at most once; None drops a tensor.
_SAME: tuple[tuple[str, str | None], ...] = ()
_NORM: tuple[tuple[str, str | None], ...] = ((r"(^|\.)bn\.", r"\1norm."),)
_KINDS: dict[str, tuple[str, tuple[tuple[str, str | None], ...]]] = {
    "Conv": ("Conv", _SAME),
    "C3k2": ("C3k2", _SAME),
    "A2C2f": ("A2C2f", _SAME),
    "Upsample": ("Upsample", _SAME),
    "Concat": ("Concat", _SAME),
    "MutilScaleEdgeInfoGenetator": ("HEM", ((r"^sc\.", None), (r"^conv_1x1s\.", "project."), *_NORM)),
    "ConvEdgeFusion": (
        "SEF",
        (
            (r"^conv_channel_fusion\.", "reduce."),
            (r"^conv_3x3_feature_extract\.", "mix."),
            (r"^conv_1x1\.", "expand."),
            *_NORM,
        ),
    ),
    "SPDConv": ("SPDConv", _NORM),
    "CSPOmniKernel": (
        "CSPOKM",
        (
            (r"^m\.fgm\.conv\.", None),
            (r"^cv1\.", "before."),
            (r"^cv2\.", "after."),
            (r"^m\.in_conv\.", "omni.enter."),
            (r"^m\.out_conv\.", "omni.leave."),
            (r"^m\.dw_13\.", "omni.large.branches.0."),
            (r"^m\.dw_31\.", "omni.large.branches.1."),
            (r"^m\.dw_33\.", "omni.large.branches.2."),
            (r"^m\.dw_11\.", "omni.large.branches.3."),
            (r"^m\.fac_conv\.", "omni.gate.spectral."),
            (r"^m\.conv\.", "omni.gate.spatial."),
            (r"^m\.fgm\.dwconv1\.", "omni.gate.p."),
            (r"^m\.fgm\.dwconv2\.", "omni.gate.q."),
            (r"^m\.fgm\.", "omni.gate."),
            *_NORM,
        ),
    ),
}
_PART = "GetIndexOutput"

# What shapes do not show: two networks of the same tensors that differ in one of these are not the same function.
_ATTRIBUTES = (
    *("stride", "padding", "dilation", "groups", "eps", "area", "num_heads", "add", "reg_max"),
    *("num_queries", "num_decoder_layers", "n_heads", "n_points", "n_levels", "eval_idx"),
)

# Theirs, and how ours are called.
_HEADS = {"Detect": "detect", "RTDETRDecoder": "rtdetr"}


def convert_hieraedge(source: str | Path, out: str | Path, *, overwrite: bool = False) -> str:
    """Converts a checkpoint of the authors' code.

    The file is a pickle. It is read in a process of its own, which runs nothing of it. Weights are written in half
    precision, as ultralytics' checkpoints hold them.

    Args:
        source: The checkpoint.
        out: The weights file to write.
        overwrite: Replace a file that is there.

    Returns:
        The name of the model whose weights they are, such as `hieraedge-n-reference`.

    Raises:
        RejectedModelError: Not such a checkpoint, or of a network that is not ours; the message names what differs.
        UsageError: `out` is there already and `overwrite` is off.
    """
    refuse_existing(out, overwrite=overwrite)
    return write_hieraedge(Path(source), read_checkpoint(source, WHAT), out)


def write_hieraedge(source: Path, checkpoint: Checkpoint, out: str | Path) -> str:
    """As `convert_hieraedge`, of a checkpoint that has been read."""
    classes = _classes(source, checkpoint)
    try:
        model, tensors = _network(checkpoint, classes)
    except _Differs as error:
        raise RejectedModelError(
            f"{source}: expected the network {' or '.join(NAMES)}, with {' or '.join(_HEADS)}; {error}"
        ) from error
    model.load_state_dict({ours: checkpoint.tensors[theirs] for theirs, ours in tensors.items()}, strict=True)
    name: str = model.yaml["name"]
    imgsz = (checkpoint.about.get("train_args") or {}).get("imgsz")
    try:
        save_weights(
            out,
            model.float().eval(),
            name=name,
            classes=classes,
            config=model.yaml,
            imgsz=imgsz if isinstance(imgsz, int) and imgsz >= 32 else 640,
            naming_threshold=0.5,
            max_grain_px=160,
            training={
                "converted_from": source.name,
                "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
                "ultralytics": str(checkpoint.about.get("version", "")),
            },
        )
    except PalynoError as error:
        raise RejectedModelError(f"{source}: {error}") from error
    return name


def _network(checkpoint: Checkpoint, classes: Sequence[str]) -> tuple[Any, dict[str, str]]:
    """Ours, and the names of their tensors with ours."""
    # The sizes differ in widths and depths alone: one stands for all while layers are followed.
    layers = _layers(checkpoint)
    head = _HEADS.get(_kind(layers[max(layers)])) if layers else None
    model: Any = build(NAMES[0], classes=classes, head=head)
    tensors = _laid_over(checkpoint, model)
    stem = next((theirs for theirs, ours in tensors.items() if ours == _STEM), None)
    width = len(checkpoint.tensors[stem]) if stem else None
    if width not in CANDIDATES:
        sizes = " or ".join(f"{width} ({' or '.join(names)})" for width, names in CANDIDATES.items())
        raise _Differs(f"its first convolution has {width or 'no'} channels, ours {sizes}")
    odd: dict[str, list[str]] = {}
    for name in CANDIDATES[width]:
        model = build(name, classes=classes, head=head)
        if not (odd := odd | {name: _differences(checkpoint, tensors, model)})[name]:
            return model, tensors
    name = min(odd, key=lambda name: len(odd[name]))
    raise _Differs(f"nearest is {name}, from which {len(odd[name])} differ: {', '.join(odd[name][:3])}")


def _layers(checkpoint: Checkpoint) -> dict[int, Mapping[str, Any]]:
    """Their layers by number."""
    return {
        int(name.removeprefix("model.")): about
        for name, about in checkpoint.modules.items()
        if re.fullmatch(r"model\.\d+", name)
    }


class _Differs(Exception):
    """A network that is not ours; the message says where."""


def _classes(source: Path, checkpoint: Checkpoint) -> list[str]:
    network = checkpoint.modules.get("", {})
    if not checkpoint.modules or not re.match(r"ultralytics\.", network.get("class", "")):
        found = network.get("class") or f"{len(checkpoint.tensors)} tensors without a network"
        raise RejectedModelError(f"{source}: expected {WHAT}, a pickled network of ultralytics; got {found}")
    names = network.get("names")
    if isinstance(names, dict):
        names = [names.get(str(i)) for i in range(len(names))]
    if not isinstance(names, list) or not names or not all(isinstance(n, str) and n for n in names):
        raise RejectedModelError(f"{source}: expected the names of its classes under model.names, got {names!r}")
    # A name that is there twice is two classes of the network all the same.
    return [name if names.count(name) == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def _laid_over(checkpoint: Checkpoint, model: Any) -> dict[str, str]:
    """Their tensors' names and ours, by following both networks from the head back to the image."""
    layers = _layers(checkpoint)
    body: Body = model.model[0]
    last = max(layers, default=-1)
    if last < 0 or _kind(layers[last]) not in _HEADS:
        found = _kind(layers[last]) if layers else "missing"
        raise _Differs(f"its last layer is {found}, ours {' or '.join(_HEADS)}")
    rows: dict[int, str] = {}
    heads = _sources(last, layers[last])
    if len(heads) != len(body.outputs):
        raise _Differs(f"its head takes {len(heads)} maps, ours {len(body.outputs)}")
    todo = list(zip(heads, body.outputs, strict=True))
    while todo:
        i, ours = todo.pop()
        if (i < 0) != (ours == "image"):
            raise _Differs(f"layer {i} stands where ours has {ours}")
        if i < 0:
            continue
        kind = _kind(layers[i])
        row, _, part = ours.partition(".")
        if kind == _PART:
            index = layers[i].get("index")
            if part != f"p{3 + index}" if isinstance(index, int) else True:
                raise _Differs(f"layer {i} takes output {index} where ours has {ours}")
            (i,) = _sources(i, layers[i])
            kind = _kind(layers[i])
        if i in rows:
            if rows[i] != row:
                raise _Differs(f"layer {i} ({kind}) is one where ours are two, {rows[i]} and {row}")
            continue
        if row in rows.values():
            raise _Differs(f"layer {i} ({kind}) is another one where ours is {row} again")
        expected = type(body.blocks[row]).__name__
        if kind not in _KINDS or _KINDS[kind][0] != expected:
            raise _Differs(f"layer {i} is {kind}, ours is {expected} ({row})")
        sources = _sources(i, layers[i])
        if len(sources) != len(body.sources[row]):
            raise _Differs(f"layer {i} ({kind}) takes {len(sources)} maps, ours ({row}) {len(body.sources[row])}")
        rows[i] = row
        todo += zip(sources, body.sources[row], strict=True)
    places = {f"model.{i}.": (f"model.0.blocks.{row}.", _KINDS[_kind(layers[i])][1]) for i, row in rows.items()}
    places[f"model.{last}."] = ("model.1.", _SAME)
    names: dict[str, str] = {}
    odd = []
    for theirs in checkpoint.tensors:
        here = re.match(r"model\.\d+\.", theirs)
        if here is None or here[0] not in places:
            odd.append(theirs)
            continue
        prefix, changes = places[here[0]]
        renamed = _renamed(theirs[here.end() :], changes)
        if renamed is not None:
            names[theirs] = prefix + renamed
    if odd:
        raise _Differs(f"{len(odd)} tensors are of layers that ours has not: {', '.join(odd[:3])}")
    return names


def _kind(layer: Mapping[str, Any]) -> str:
    return str(layer["class"]).rpartition(".")[2]


def _sources(i: int, layer: Mapping[str, Any]) -> list[int]:
    """The layers that one takes maps from; -1 is the image."""
    sources = layer.get("f")
    sources = sources if isinstance(sources, list) else [sources]
    if not all(isinstance(j, int) for j in sources):
        raise _Differs(f"layer {i} does not say where its maps come from")
    resolved = [j if j >= 0 else i + j for j in sources]
    if any(j >= i or j < -1 for j in resolved):
        raise _Differs(f"layer {i} takes maps of {sources}, which come after it")
    return resolved


def _renamed(name: str, changes: Sequence[tuple[str, str | None]]) -> str | None:
    if any(replacement is None and re.search(pattern, name) for pattern, replacement in changes):
        return None
    for pattern, replacement in changes:
        name = re.sub(pattern, replacement or "", name, count=1)
    return name


def _differences(checkpoint: Checkpoint, names: Mapping[str, str], model: Any) -> list[str]:
    """Other tensors or shapes than ours; if there are none, modules that compute something else with them."""
    back = {ours: theirs for theirs, ours in names.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {ours: tuple(checkpoint.tensors[theirs].shape) for ours, theirs in back.items()}
    odd = [
        f"{back.get(name, name)} {found.get(name, 'missing')} for {expected.get(name, 'nothing')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]
    odd += [f"{theirs} not finite" for theirs, tensor in checkpoint.tensors.items() if not torch.isfinite(tensor).all()]
    if not odd:
        odd = list(_other_attributes(checkpoint, names, dict(model.named_modules())))
    return odd


def _other_attributes(checkpoint: Checkpoint, names: Mapping[str, str], modules: Mapping[str, Any]) -> Iterator[str]:
    """Where modules of the same tensors are not the same function: those that hold some, and all above them."""
    seen = set()
    for theirs, ours in names.items():
        while "." in theirs and "." in ours:
            theirs, ours = theirs.rpartition(".")[0], ours.rpartition(".")[0]
            if (theirs, ours) in seen or theirs not in checkpoint.modules or ours not in modules:
                continue
            seen.add((theirs, ours))
            about, module = checkpoint.modules[theirs], modules[ours]
            activation, own = checkpoint.modules.get(f"{theirs}.act"), getattr(module, "act", None)
            if activation is not None and own is not None and _kind(activation) != type(own).__name__:
                yield f"{theirs}.act {_kind(activation)} for {type(own).__name__}"
            if _kind(about) not in (*(cls.__name__ for cls in type(module).__mro__), "Conv"):
                continue
            for attribute in _ATTRIBUTES:
                value = getattr(module, attribute, None)
                value = list(value) if isinstance(value, tuple) else value
                # A head's strides are tensors, and what holds none says nothing.
                if value is None or torch.is_tensor(value) or attribute not in about or about[attribute] == value:
                    continue
                if attribute == "padding" and _kind(about) == "Conv2d" and ".omni.large." in ours:
                    continue  # Ours are merged first, and padded then.
                yield f"{theirs}.{attribute} {about[attribute]} for {value}"
