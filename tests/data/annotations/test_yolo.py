from __future__ import annotations

import numpy as np
import pytest
import yaml
from palyno.data.annotations import LabelledImage
from palyno.data.annotations.yolo import label_lines, read_label_file, read_yolo, write_yolo
from palyno.errors import AnnotationError, UsageError
from PIL import Image


@pytest.mark.parametrize("kind", ["truth", "detections"])
def test_what_is_written_is_read_back(kind, request, same, tmp_path):
    images = request.getfixturevalue(kind)
    paths = write_yolo(images, tmp_path)
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "labels/slide 1.txt",
        "labels/slide 2.txt",
        "data.yaml",
    ]
    same(read_yolo(tmp_path), images, px=0.01, ids=False, confidence=False)


def test_data_yaml_names_no_folder_that_is_not_there(detections, same, tmp_path):
    write_yolo(detections, tmp_path / "set")
    text = (tmp_path / "set" / "data.yaml").read_text()
    document = yaml.safe_load(text)
    assert document.keys() == {"names", "slides"}
    same(read_yolo(tmp_path / "set"), detections, px=0.01, ids=False, confidence=False)
    with pytest.raises(UsageError, match="no split 'train': it names none"):
        read_yolo(tmp_path / "set", split="train")
    # What its head says to do, done: the pictures beside the labels, and two lines.
    (tmp_path / "set" / "images").mkdir()
    for stem, slide in document["slides"].items():
        Image.new("L", (slide["width"], slide["height"])).save(tmp_path / "set" / "images" / f"{stem}.png")
    wanted = [line.removeprefix("# ") for line in text.splitlines() if line.startswith(("# train", "# val"))]
    (tmp_path / "set" / "data.yaml").write_text("\n".join([*wanted, text]))
    found = read_yolo(tmp_path / "set", split="val")
    assert [image.labels for image in found] == [image.labels for image in detections]
    assert write_yolo(detections, tmp_path / "set", overwrite=True)
    assert yaml.safe_load((tmp_path / "set" / "data.yaml").read_text())["train"] == "images"


def dataset(folder, images, **config):
    """A data set on disk: pictures of one colour with the labels of `images`."""
    (folder / "images").mkdir(parents=True)
    write_yolo(images, folder)
    for image in images:
        stem = image.image.rpartition("/")[2].rpartition(".")[0]
        Image.new("L", (image.width, image.height)).save(folder / "images" / f"{stem}.png")
    document = yaml.safe_load((folder / "data.yaml").read_text())
    del document["slides"]
    (folder / "data.yaml").write_text(yaml.safe_dump(document | config))
    return folder


def test_supervision_reads_the_same_boxes(truth, tmp_path):
    import supervision as sv

    folder = dataset(tmp_path, truth)
    found = sv.DetectionDataset.from_yolo(
        str(folder / "images"), str(folder / "labels"), str(folder / "data.yaml"), force_masks=False
    )
    detections = found.annotations[str(folder / "images" / "slide 1.png")]
    assert [found.classes[i] for i in detections.class_id] == list(truth[0].labels)
    np.testing.assert_allclose(detections.xyxy, truth[0].boxes, atol=0.5)


def test_a_data_set_is_read_with_its_pictures(truth, same, tmp_path):
    found = read_yolo(dataset(tmp_path, truth) / "data.yaml")
    assert [image.image for image in found] == ["images/slide 1.png", "images/slide 2.png"]
    renamed = [LabelledImage(f.image, t.width, t.height, t.boxes, t.labels) for f, t in zip(found, truth, strict=True)]
    same(found, renamed, px=0.01, ids=False)


def test_splits_lists_and_a_path_are_followed(truth, tmp_path):
    folder = dataset(tmp_path / "set", truth, path=str(tmp_path / "set"), train="train.txt", val=["images"], nc=4)
    (folder / "train.txt").write_text("./images/slide 2.png\n")
    assert [image.image for image in read_yolo(folder, split="train")] == ["images/slide 2.png"]
    assert len(read_yolo(folder, split="val")) == len(read_yolo(folder)) == 2
    with pytest.raises(UsageError, match="no split 'test': expected one of train, val"):
        read_yolo(folder, split="test")


def test_a_darknet_folder_is_read(tmp_path):
    Image.new("L", (200, 100)).save(tmp_path / "a.jpg")
    (tmp_path / "a.txt").write_text("1 0.5 0.5 0.1 0.2\n")
    (tmp_path / "classes.txt").write_text("Alnus\nOryza\n")
    (image,) = read_yolo(tmp_path)
    assert (image.image, image.labels) == ("a.jpg", ("Oryza",))
    np.testing.assert_allclose(image.boxes, [[90, 40, 110, 60]], atol=1e-4)
    assert read_yolo(tmp_path, names=["x", "y"])[0].labels == ("y",)
    (tmp_path / "classes.txt").unlink()
    with pytest.raises(AnnotationError, match=r"expected data\.yaml, classes\.txt"):
        read_yolo(tmp_path)


def test_a_picture_turned_by_exif_is_measured_as_shown(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (200, 100)).save(tmp_path / "a.jpg", exif=exif)
    (image,) = read_yolo(tmp_path, names=["Oryza"])
    assert (image.width, image.height, len(image)) == (100, 200, 0)


def test_boxes_and_outlines_are_mixed(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("0 0.5 0.5 0.2 0.4\n\n1.0 0.1 0.2 0.3 0.2 0.2 0.6\n")
    image = read_label_file(path, ["Alnus", "Oryza"], image="a", width=100, height=50)
    assert image.labels == ("Alnus", "Oryza")
    np.testing.assert_allclose(image.boxes, [[40, 15, 60, 35], [10, 10, 30, 30]], atol=1e-4)


def test_a_line_that_is_there_twice_is_one_grain(tmp_path):
    """As ultralytics trains on it."""
    line = "0 0.5 0.5 0.2 0.2\n"
    (tmp_path / "a.txt").write_text(line + "0 0.5 0.5 0.2 0.3\n" + line)
    with pytest.warns(UserWarning, match=r"a\.txt: left out 1 lines that repeat another"):
        image = read_label_file(tmp_path / "a.txt", ["Oryza"], image="a.png", width=100, height=100)
    assert len(image) == 2


def test_lines_have_six_decimals_and_no_confidence():
    image = LabelledImage("a", 300, 100, [[0, 0, 100, 50]], ("Oryza",), np.array([0.5], np.float32))
    assert label_lines(image, ["Alnus", "Oryza"]) == "1 0.166667 0.250000 0.333333 0.500000\n"
    with pytest.raises(UsageError, match="not one of the classes: Alnus"):
        label_lines(image, ["Alnus"])


def test_ultralytics_trains_on_what_was_detected(tmp_path, detections):
    from ultralytics.data.utils import verify_image_label

    write_yolo(detections, tmp_path)
    for image, label in zip(detections, sorted((tmp_path / "labels").glob("*.txt")), strict=True):
        Image.new("L", (image.width, image.height)).save(picture := tmp_path / f"{label.stem}.png")
        _, boxes, *_, found, _, corrupt, told = verify_image_label(
            (str(picture), str(label), "", False, 99, 0, 0, False)
        )
        assert (len(boxes), found, corrupt) == (len(image), 1, 0), told


@pytest.mark.parametrize(
    "line",
    [
        "0 0.5 0.5 0.2",
        "0 0.5 0.5 0.2 0.2 0.9 0.1 0.3",
        "2 0.5 0.5 0.2 0.2",
        "-1 0.5 0.5 0.2 0.2",
        "0.5 0.5 0.5 0.2 0.2",
        "nan 0.5 0.5 0.2 0.2",
        "inf 0.5 0.5 0.2 0.2",
        "Oryza 0.5 0.5 0.2 0.2",
        "0 50 50 20 20",
        "0 0.5 0.5 -0.2 0.2",
        "0 0.5 0.5 nan 0.2",
        "0 0.95 0.5 0.2 0.2",
        "0 0.1 0.1 0.2 0.2 0.3",
    ],
)
def test_a_fault_is_named_with_its_line(line, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text(f"0 0.5 0.5 0.2 0.2\n{line}\n")
    # A sixth number in one line only is a fault of the whole file.
    with pytest.raises(AnnotationError, match=r"a\.txt(:2|.*1 for 2 boxes)"):
        read_label_file(path, ["Alnus", "Oryza"], image="a", width=100, height=50)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("names: [a\nx: 1", r"data\.yaml:2: expected YAML"),
        ("- a\n", r"data\.yaml:1: expected a data\.yaml"),
        ("train: images\n", r"data\.yaml: names"),
        ("names: {1: a}\n", r"data\.yaml: names"),
        ("names: [a]\nnc: 2\n", r"data\.yaml: names"),
        ("names: [a]\n", r"data\.yaml: expected folders of pictures under train"),
        ("names: [a]\ntrain: gone\n", r"data\.yaml: train: expected a folder of pictures.*/gone, which is not there"),
        ("names: [a]\ntrain: gone.txt\n", r"data\.yaml: train: expected a folder.*gone\.txt, which is not there"),
        ("names: [a]\ntrain: images\nslides: {x: {image: x}}\n", r"data\.yaml: slides.*width"),
        ("names: !!python/object/apply:os.system [exit]\n", r"data\.yaml:1: expected YAML"),
    ],
)
def test_a_bad_data_yaml_is_refused(text, place, tmp_path):
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(AnnotationError, match=place):
        read_yolo(tmp_path)


def test_two_pictures_that_share_a_label_file_are_refused(truth, tmp_path):
    folder = dataset(tmp_path, truth)
    Image.new("L", (8, 8)).save(folder / "images" / "slide 1.jpg")
    with pytest.raises(AnnotationError, match=r"slide 1\.txt.*both"):
        read_yolo(folder)


def test_a_picture_that_is_none_is_named(truth, tmp_path):
    folder = dataset(tmp_path, truth)
    (folder / "images" / "slide 2.png").write_text("no picture")
    with pytest.raises(AnnotationError, match=r"slide 2\.png: the labels need the picture's size"):
        read_yolo(folder)


def test_nothing_is_written_when_one_file_is_there(truth, tmp_path):
    write_yolo(truth[1:], tmp_path)
    with pytest.raises(UsageError, match="--overwrite"):
        write_yolo(truth, tmp_path)
    assert not (tmp_path / "labels" / "slide 1.txt").exists()
    assert len(write_yolo(truth, tmp_path, overwrite=True)) == 3
