"""Pascal VOC: one XML file an image, boxes as whole pixels counted from 1, both ends included.

In the development kit's own terms a box over the whole of a 640 pixel wide image has `xmin` 1 and `xmax` 640; here it
has `x1` 0 and `x2` 640. So reading takes 1 off `xmin` and `ymin` only. Some labelling tools count from 0 instead
(`first_pixel=0`). Confidences and identifiers have no place in this format and are not written.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from ...errors import AnnotationError, UsageError
from ..atomic import refuse_existing, replacing
from . import LabelledImage
from .names import slide_stems
from .reading import Row, box, expecting, labelled, read_text, size

__all__ = ["read_voc", "write_voc"]

_LINE = "line"


def write_voc(images: Iterable[LabelledImage], folder: str | Path, *, overwrite: bool = False) -> list[Path]:
    """Writes one XML file an image, with boxes rounded to whole pixels and at least one pixel large.

    Args:
        images: The images.
        folder: Where the files go.
        overwrite: Replace files that are there.

    Returns:
        The files, one an image.

    Raises:
        UsageError: Two images have one name, or a file is there.
    """
    images = list(images)
    stems = slide_stems(image.image for image in images)
    paths = [Path(folder) / f"{stems[image.image]}.xml" for image in images]
    for path in paths:
        refuse_existing(path, overwrite=overwrite)
    for image, path in zip(images, paths, strict=True):
        with replacing(path, "wb", overwrite=overwrite) as file:
            tree = _tree(image)
            ElementTree.indent(tree)
            tree.write(file, encoding="utf-8")
    return paths


def _tree(image: LabelledImage) -> ElementTree.ElementTree:
    root = ElementTree.Element("annotation")
    ElementTree.SubElement(root, "folder")
    ElementTree.SubElement(root, "filename").text = _text(image.image)
    _fill(ElementTree.SubElement(root, "size"), width=image.width, height=image.height, depth=3)
    ElementTree.SubElement(root, "segmented").text = "0"
    for label, (x1, y1, x2, y2) in zip(image.labels, image.boxes.tolist(), strict=True):
        grain = ElementTree.SubElement(root, "object")
        _fill(grain, name=label, pose="Unspecified", truncated=0, difficult=0)
        xmin, ymin = min(round(x1) + 1, image.width), min(round(y1) + 1, image.height)
        bounds = ElementTree.SubElement(grain, "bndbox")
        _fill(bounds, xmin=xmin, ymin=ymin, xmax=max(round(x2), xmin), ymax=max(round(y2), ymin))
    return ElementTree.ElementTree(root)


def _fill(parent: ElementTree.Element, **values: str | int) -> None:
    for tag, value in values.items():
        ElementTree.SubElement(parent, tag).text = _text(str(value))


def _text(value: str) -> str:
    """The characters of a name that XML 1.0 can hold at all."""
    text = value.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c in "\t\n" or (c >= " " and c not in "\ufffe\uffff") else "_" for c in text)


def read_voc(source: str | Path, *, first_pixel: int = 1) -> list[LabelledImage]:
    """Reads one XML file, or all those of a folder in the order of their names.

    Args:
        source: A file or folder.
        first_pixel: 1 where the file counts pixels from 1 as the format says; 0 where its numbers are plain
            coordinates.

    Returns:
        One entry a file. Boxes are cut at the image's border.

    Raises:
        UsageError: `first_pixel` is neither 0 nor 1.
        AnnotationError: A file is not Pascal VOC, or has a document type or entities, which are refused.
    """
    if first_pixel not in (0, 1):
        raise UsageError(f"first_pixel must be 0 or 1: got {first_pixel}")
    source = Path(source)
    paths = sorted(source.glob("*.xml")) if source.is_dir() else [source]
    if not paths:
        raise AnnotationError(f"{source}: expected a folder with .xml files, got none")
    return [_read_file(path, first_pixel) for path in paths]


def _read_file(path: Path, first_pixel: int) -> LabelledImage:
    root = _parse(path)
    place = f"{path}:{root.get(_LINE)}"
    with expecting(place, "an annotation with filename and a size of width and height", root.tag):
        if root.tag != "annotation":
            raise ValueError
        name = _value(root, "filename")
        width, height = (size(_value(root, f"size/{side}")) for side in ("width", "height"))
    rows = []
    for grain in root.iter("object"):
        place = f"{path}:{grain.get(_LINE)}"
        got = " ".join("".join(grain.itertext()).split())
        with expecting(place, "an object with name and bndbox: xmin, ymin, xmax, ymax", got):
            label = _value(grain, "name")
            x1, y1, x2, y2 = (float(_value(grain, f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax"))
            x1, y1, x2, y2 = box(x1 - first_pixel, y1 - first_pixel, x2, y2)
            rows.append(Row(box(max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)), label))
    return labelled(path, name, width, height, rows)


def _value(element: ElementTree.Element, path: str) -> str:
    text = element.findtext(path)
    if text is None or not text.strip():
        raise KeyError(path)
    return text.strip()


def _parse(path: Path) -> ElementTree.Element:
    """An XML file as a tree, each element with the line it began on.

    Entities are how XML files grow without bound or read other files; a label file needs none, so that a document type
    is refused altogether.
    """
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate("utf-8")

    def refuse(*_: object) -> None:
        raise AnnotationError(
            f"{path}:{parser.CurrentLineNumber}: expected plain XML, got a document type or entity; delete that line"
        )

    def start(tag: str, attributes: dict[str, str]) -> None:
        builder.start(tag, {**attributes, _LINE: str(parser.CurrentLineNumber)})

    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse
    parser.EntityDeclHandler = refuse
    try:
        parser.Parse(read_text(path).encode(), True)
    except expat.ExpatError as error:
        raise AnnotationError(f"{path}:{error.lineno}: expected XML, got {expat.ErrorString(error.code)}") from error
    return builder.close()
