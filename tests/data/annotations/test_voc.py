from __future__ import annotations

import numpy as np
import pytest
from palyno.data.annotations import LabelledImage
from palyno.data.annotations.voc import read_voc, write_voc
from palyno.errors import AnnotationError, UsageError
from PIL import Image


def test_what_is_written_is_read_back(truth, same, tmp_path):
    write_voc(truth, tmp_path)
    same(read_voc(tmp_path), truth, px=0.5, ids=False)


def test_supervision_reads_the_same_boxes(truth, tmp_path):
    import supervision as sv

    write_voc(truth[:1], tmp_path / "xml")
    Image.new("RGB", (truth[0].width, truth[0].height)).save(tmp_path / "slide 1.png")
    found = sv.DetectionDataset.from_pascal_voc(str(tmp_path), str(tmp_path / "xml"))
    detections = found.annotations[str(tmp_path / "slide 1.png")]
    assert [found.classes[i] for i in detections.class_id] == list(truth[0].labels)
    np.testing.assert_allclose(detections.xyxy, truth[0].boxes, atol=0.5)


def test_pixels_are_counted_from_1_with_both_ends(tmp_path):
    whole = LabelledImage("a.png", 640, 480, [[0, 0, 640, 480], [3.2, 3.2, 3.3, 3.3]], ("Oryza", "Alnus"))
    (path,) = write_voc([whole], tmp_path)
    text = "".join(path.read_text().split())
    assert "<xmin>1</xmin><ymin>1</ymin><xmax>640</xmax><ymax>480</ymax>" in text
    assert "<xmin>4</xmin><ymin>4</ymin><xmax>4</xmax><ymax>4</ymax>" in text
    assert read_voc(path)[0].boxes.tolist() == [[0, 0, 640, 480], [3, 3, 4, 4]]


def test_plain_coordinates_are_read_when_said_so(tmp_path):
    (path,) = write_voc([LabelledImage("a.png", 64, 48, [[0, 0, 10, 10]], ("Oryza",))], tmp_path)
    assert read_voc(path, first_pixel=0)[0].boxes.tolist() == [[1, 1, 10, 10]]
    with pytest.raises(UsageError, match="first_pixel"):
        read_voc(path, first_pixel=2)


def test_names_with_markup_survive(tmp_path):
    image = LabelledImage("a&b<c>.png", 64, 48, [[0, 0, 10, 10]], ('Poaceae >40 µm "x"',))
    (found,) = read_voc(write_voc([image], tmp_path)[0])
    assert (found.image, found.labels) == (image.image, image.labels)


HEAD = "<annotation>\n<filename>a.png</filename>\n<size><width>10</width><height>10</height></size>\n"
OBJECT = "<object><name>x</name><bndbox>{}</bndbox></object>\n</annotation>"
BOX = "<xmin>{}</xmin><ymin>1</ymin><xmax>{}</xmax><ymax>5</ymax>"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (HEAD + OBJECT.format(BOX.format(1, "x")), ":4: expected an object"),
        (HEAD + OBJECT.format(BOX.format(8, 3)), ":4: expected an object"),
        (HEAD + OBJECT.format(BOX.format(20, 30)), ":4: expected an object"),
        (HEAD + OBJECT.format("<xmin>1</xmin>"), ":4: expected an object.*bndbox/ymin.*missing"),
        (HEAD + "<object/>\n</annotation>", ":4: expected an object"),
        ("<annotation>\n</annotation>", ":1: expected an annotation"),
        ("<svg/>", ":1: expected an annotation"),
        (HEAD.replace(">10<", ">0<", 1) + "</annotation>", ":1: expected an annotation"),
        (HEAD, ":4: expected XML"),
        ("", ":1: expected XML"),
        (
            '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]>\n<annotation>&x;</annotation>',
            ":1: expected plain XML",
        ),
        ("\n\n<!DOCTYPE annotation>" + HEAD + "</annotation>", ":3: expected plain XML"),
        ("<annotation>\n&x;</annotation>", ":2: expected XML"),
    ],
)
def test_a_fault_is_named_with_its_line(text, place, tmp_path):
    (tmp_path / "a.xml").write_text(text)
    with pytest.raises(AnnotationError, match=rf"a\.xml{place}"):
        read_voc(tmp_path / "a.xml")


def test_a_document_type_cannot_hide_in_another_encoding(tmp_path):
    text = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>'
    (tmp_path / "a.xml").write_text(text, encoding="utf-16")
    with pytest.raises(AnnotationError, match=r"a\.xml:1: expected UTF-8"):
        read_voc(tmp_path / "a.xml")


def test_a_folder_without_files_is_refused(tmp_path):
    with pytest.raises(AnnotationError, match=r"\.xml files, got none"):
        read_voc(tmp_path)
