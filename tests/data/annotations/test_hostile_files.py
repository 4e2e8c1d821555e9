"""Whatever is in a label file, a reader returns boxes or an `AnnotationError` that names the file; nothing else."""

from __future__ import annotations

import warnings

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from palyno.data.annotations import LabelledImage
from palyno.data.annotations.coco import read_coco, write_coco
from palyno.data.annotations.csv import read_counts, read_grains
from palyno.data.annotations.geojson import read_geojson, write_geojson
from palyno.data.annotations.labelstudio import read_labelstudio, write_labelstudio
from palyno.data.annotations.voc import read_voc, write_voc
from palyno.data.annotations.yolo import label_lines, read_label_file, read_yolo, write_yolo
from palyno.errors import AnnotationError

IMAGE = LabelledImage("a.png", 64, 48, [[1, 2, 30, 40], [5, 5, 9, 9]], ("Oryza", "Isoëtes"))
READERS = {
    "coco": (lambda p: write_coco([IMAGE], p, overwrite=True), read_coco),
    "geojson": (lambda p: write_geojson(IMAGE, p, overwrite=True), lambda p: [read_geojson(p, width=64, height=48)]),
    "labelstudio": (lambda p: write_labelstudio([IMAGE], p, overwrite=True), read_labelstudio),
    "voc": (lambda p: write_voc([IMAGE], p.parent, overwrite=True)[0].replace(p), read_voc),
    "yolo": (
        lambda p: p.write_text(label_lines(IMAGE, ["Oryza", "Isoëtes"])),
        lambda p: [read_label_file(p, ["Oryza", "Isoëtes"], image="a", width=64, height=48)],
    ),
    "data.yaml": (lambda p: write_yolo([IMAGE], p.parent, overwrite=True)[-1].replace(p), read_yolo),
    "grains": (
        lambda p: p.write_text(
            "slide,grain_id,x1,y1,x2,y2,taxon,confidence\na,1,1,2,3,4,Oryza,0.5\nb,1,1,2,3,4,'=x,0.5\n"
        ),
        read_grains,
    ),
    "counts": (
        lambda p: p.write_text("slide,taxon,n,sum,percent,low,high,level,method\na,(none),0,0,,,,0.95,wilson\n"),
        read_counts,
    ),
}
# What breaks number and structure parsers: signs, huge exponents, brackets, quotes, bytes that are not UTF-8.
PIECES = [
    b"",
    b"-",
    b"NaN",
    b"1e999",
    b"9" * 4400,
    b"null",
    b"[",
    b"}",
    b'"',
    b"<",
    b"&x;",
    b"\x00",
    b"\xff",
    b"\n",
    b"'",
    b"true",
]
edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=4)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=edits)
def test_a_damaged_file_is_read_or_named(name, edits, tmp_path):
    write, read = READERS[name]
    path = tmp_path / "file"
    write(path)
    data = path.read_bytes()
    for where, length, piece in edits:
        at = int(where * len(data))
        data = data[:at] + piece + data[at + length :]
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            read(path)
        except AnnotationError as error:
            assert str(tmp_path) in str(error)


@pytest.mark.parametrize("name", READERS)
def test_the_undamaged_file_is_read(name, tmp_path):
    write, read = READERS[name]
    write(tmp_path / "file")
    assert read(tmp_path / "file")


@pytest.mark.parametrize("name", READERS)
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(AnnotationError, match=r"missing: cannot be read: No such file"):
        READERS[name][1](tmp_path / "missing")


@pytest.mark.parametrize("key", ["names", "train", "path", "slides"])
def test_a_document_that_repeats_itself_is_quoted_in_bounds(key, tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    good = {"names": "[x]", "train": "images", "slides": "{x: {image: x, width: 1, height: 1}}"}
    lines += [f"{k}: {v}" for k, v in (good | {key: "*a11"}).items()]
    (tmp_path / "data.yaml").write_text("\n".join(lines))
    with pytest.raises(AnnotationError, match=rf"data\.yaml: {key}") as caught:
        read_yolo(tmp_path)
    assert len(str(caught.value)) < 2000
