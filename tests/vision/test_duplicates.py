"""One number says when two boxes are one grain, and every default is it."""

from __future__ import annotations

import ast
from pathlib import Path

import palyno
from palyno.vision.duplicates import IOU

ROOT = Path(palyno.__file__).parent
PARTS = ("app", "data", "kernels", "retrieval", "vision")
# A query's crop is read by itself; `iou` there is not a setting of counts.
OTHERS = {"retrieval/encoders/image/region_encoder.py"}


def numbers(tree):
    """Numbers that stand in the source where something called `iou` gets its value: defaults, fields and arguments."""
    for node in ast.walk(tree):
        pairs = []
        if isinstance(node, ast.FunctionDef):
            given = node.args
            with_defaults = (given.posonlyargs + given.args)[-len(given.defaults) :] if given.defaults else []
            pairs = [*zip(with_defaults, given.defaults, strict=True)]
            pairs += [(a, d) for a, d in zip(given.kwonlyargs, given.kw_defaults, strict=True) if d is not None]
            pairs = [(argument.arg, default) for argument, default in pairs]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            pairs = [(node.target.id, node.value)]
        elif isinstance(node, ast.keyword):
            pairs = [(node.arg, node.value)]
        yield from (value.value for name, value in pairs if name == "iou" and isinstance(value, ast.Constant))


def test_no_source_says_the_number_again():
    source = "def f(a, iou=0.5, *, b): g(iou=0.7)\nclass A:\n    iou: float = 0.6"
    assert [*numbers(ast.parse(source))] == [0.5, 0.6, 0.7]
    files = {file for part in PARTS for file in (ROOT / part).rglob("*.py")}
    said = {file.relative_to(ROOT).as_posix() for file in files if [*numbers(ast.parse(file.read_text()))]}
    assert len(files) > 200 and said <= OTHERS


def test_published_comparisons_are_read_as_ultralytics_reads():
    from ultralytics.cfg import DEFAULT_CFG

    assert DEFAULT_CFG.iou == IOU
