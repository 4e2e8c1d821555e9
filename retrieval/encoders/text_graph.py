"""The sentence encoder as an ONNX graph without weights: writes `minilm.onnx`, which ships.

    python -m palyno.retrieval.encoders.text_graph          # needs onnx; only when the graph changes

The same function as `text_model.MiniLM`, one operator a line of its equations. The weights stay in their own file under
their published names, and are handed to onnxruntime once their sha256 was checked; so the graph is a few kilobytes, and
neither torch nor onnx is needed to encode.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

__all__ = [
    "EPSILON",
    "GRAPH",
    "HEADS",
    "INNER",
    "LAYERS",
    "PIECES",
    "POSITIONS",
    "WIDTH",
    "build_graph",
    "weight_names",
]

GRAPH = Path(__file__).parent / "minilm.onnx"

WIDTH, HEADS, INNER, LAYERS, PIECES, POSITIONS = 384, 12, 1536, 6, 30522, 512
EPSILON = 1e-12
# The first version of ONNX's operators with Gelu as one.
OPSET, IR_VERSION = 20, 10


def weight_names() -> dict[str, tuple[int, ...]]:
    """Published names and shapes of the weights that the graph takes, all float32."""
    embeddings = {"word": PIECES, "position": POSITIONS, "token_type": 2}
    shapes: dict[str, tuple[int, ...]] = {
        f"embeddings.{k}_embeddings.weight": (n, WIDTH) for k, n in embeddings.items()
    }
    shapes |= {f"embeddings.LayerNorm.{part}": (WIDTH,) for part in ("weight", "bias")}
    for index in range(LAYERS):
        layer = f"encoder.layer.{index}"
        linear = {f"attention.self.{name}": (WIDTH, WIDTH) for name in ("query", "key", "value")}
        linear |= {"attention.output.dense": (WIDTH, WIDTH)}
        linear |= {"intermediate.dense": (INNER, WIDTH), "output.dense": (WIDTH, INNER)}
        for name, shape in linear.items():
            shapes |= {f"{layer}.{name}.weight": shape, f"{layer}.{name}.bias": shape[:1]}
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{layer}.{name}.weight": (WIDTH,), f"{layer}.{name}.bias": (WIDTH,)}
    return shapes


class _Builder:
    """Collects nodes; each call adds one and returns the name of what it gives."""

    def __init__(self) -> None:
        import numpy as np
        import onnx

        self.onnx, self.np = onnx, np
        self.nodes: list[Any] = []
        self.constants: dict[str, Any] = {}

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        name = name or f"{operator}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [name], **attributes))
        return name

    def constant(self, value: Any, dtype: str = "int64") -> str:
        array = self.np.array(value, dtype)
        name = f"{dtype}_{'_'.join(map(str, array.ravel().tolist()))}_{array.ndim}"
        self.constants[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def linear(self, x: str, name: str) -> str:
        """(B * L, in) -> (B * L, out), the weight as published, (out, in)."""
        return self.add("Gemm", x, f"{name}.weight", f"{name}.bias", transB=1)

    def norm(self, x: str, name: str) -> str:
        return self.add("LayerNormalization", x, f"{name}.weight", f"{name}.bias", axis=-1, epsilon=EPSILON)


def build_graph() -> bytes:
    """The graph: `pieces` (B, L) int64 and `mask` (B, L) int64, 1 where there is a piece -> `vectors` (B, 384)."""
    g = _Builder()
    onnx, helper = g.onnx, g.onnx.helper
    length = g.add("Shape", "pieces", start=1, end=2)
    full = g.add("Concat", g.constant([-1]), length, g.constant([WIDTH]), axis=0)
    split = g.add("Concat", g.constant([-1]), length, g.constant([HEADS, WIDTH // HEADS]), axis=0)
    rows = g.constant([-1, WIDTH])

    places = g.add("Slice", "embeddings.position_embeddings.weight", g.constant([0]), length, g.constant([0]))
    segment = g.add("Gather", "embeddings.token_type_embeddings.weight", g.constant(0))
    x = g.add("Add", g.add("Gather", "embeddings.word_embeddings.weight", "pieces"), g.add("Add", places, segment))
    x = g.norm(g.add("Reshape", x, rows), "embeddings.LayerNorm")

    there = g.add("Cast", "mask", to=onnx.TensorProto.FLOAT)
    # Far below any score, and finite: a softmax of it is an exact zero.
    absent = g.add("Mul", g.add("Sub", there, g.constant(1, "float32")), g.constant(1e9, "float32"))
    absent = g.add("Unsqueeze", absent, g.constant([1, 2]))
    scale = g.constant((WIDTH // HEADS) ** -0.5, "float32")
    for index in range(LAYERS):
        layer = f"encoder.layer.{index}"
        parts = {}
        for name, order in (("query", (0, 2, 1, 3)), ("key", (0, 2, 3, 1)), ("value", (0, 2, 1, 3))):
            part = g.add("Reshape", g.linear(x, f"{layer}.attention.self.{name}"), split)
            parts[name] = g.add("Transpose", part, perm=order)
        scores = g.add("Mul", g.add("MatMul", parts["query"], parts["key"]), scale)
        weights = g.add("Softmax", g.add("Add", scores, absent), axis=-1)
        y = g.add("Transpose", g.add("MatMul", weights, parts["value"]), perm=(0, 2, 1, 3))
        y = g.linear(g.add("Reshape", y, rows), f"{layer}.attention.output.dense")
        x = g.norm(g.add("Add", x, y), f"{layer}.attention.output.LayerNorm")
        y = g.linear(g.add("Gelu", g.linear(x, f"{layer}.intermediate.dense")), f"{layer}.output.dense")
        x = g.norm(g.add("Add", x, y), f"{layer}.output.LayerNorm")

    states = g.add("Mul", g.add("Reshape", x, full), g.add("Unsqueeze", there, g.constant([2])))
    # The mean over the pieces and the sum over them have one direction, and only that is kept.
    total = g.add("ReduceSum", states, g.constant([1]), keepdims=0)
    g.add("Div", total, g.add("ReduceL2", total, g.constant([1])), name="vectors")

    def tensor(name: str, sides: list[Any], kind: int) -> Any:
        return helper.make_tensor_value_info(name, kind, sides)

    outside = [_external(onnx, name, shape) for name, shape in weight_names().items()]
    graph = helper.make_graph(
        g.nodes,
        "all-MiniLM-L6-v2",
        [tensor(name, ["texts", "length"], onnx.TensorProto.INT64) for name in ("pieces", "mask")],
        [tensor("vectors", ["texts", WIDTH], onnx.TensorProto.FLOAT)],
        [*g.constants.values(), *outside],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    model.producer_name = "palyno"
    return model.SerializeToString(deterministic=True)


def _external(onnx: Any, name: str, shape: tuple[int, ...]) -> Any:
    """A weight of which only name, type and shape are in the graph."""
    tensor = onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, dims=shape)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="model.safetensors")
    return tensor


if __name__ == "__main__":
    GRAPH.write_bytes(build_graph())
