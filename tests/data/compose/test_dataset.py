"""Composed data sets: the same whatever the number of workers, splits that do not share grains, labels that agree."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from palyno.data.annotations.coco import read_coco
from palyno.data.annotations.yolo import read_yolo
from palyno.data.compose import Recipe, compose_dataset
from palyno.data.grains import mask_extent
from palyno.data.masks import read_masks
from palyno.data.references import choose_unknown, find_references, isolated_grains, read_fields, split_references
from palyno.data.scene import SceneSettings
from palyno.errors import InputError, SlideError, UsageError

PICTURES = Path(__file__).parents[1] / "pictures" / "pollen73s"
SMALL = SceneSettings(size=256, grain_px=(18, 90), largest_count=12)
UNKNOWN = {"train": ("zea_mays",), "val": ("mimosa_pigra",), "test": ("tridax_procumbens",)}


def recipe(**options):
    scenes = {"train": 6, "val": 3, "test": 3}
    given = {
        "test_reference": PICTURES / "val",
        "scenes": scenes,
        "unknown": UNKNOWN,
        "scene": SMALL,
        "val_share": 0.25,
    }
    return Recipe(PICTURES / "train", **{**given, **options})


@pytest.fixture(scope="module")
def fields(tmp_path_factory):
    """Two labelled fields of discs: one for training, one for testing."""
    folder = tmp_path_factory.mktemp("fields")
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        picture = np.full((600, 800, 3), 235, np.uint8) + rng.integers(0, 5, (600, 800, 3), np.uint8)
        rows = []
        for x, y in ((100, 100), (300, 120), (500, 400), (700, 500), (150, 450)):
            cv2.circle(picture, (x, y), 25, (70, 90, 140), -1, cv2.LINE_AA)
            rows.append(f"0 {x / 800} {y / 600} {51 / 800} {51 / 600}\n")
        cv2.imwrite(str(folder / "images" / f"{name}.png"), picture)
        (folder / "labels" / f"{name}.txt").write_text("".join(rows))
    (folder / "splits.csv").write_text("file,split\na.png,train\nb.png,test\n")
    return folder


@pytest.fixture(scope="module")
def composed(tmp_path_factory, fields):
    out = tmp_path_factory.mktemp("composed") / "set"
    made = recipe(fields=(fields,), labelled_fields=fields, field_splits=fields / "splits.csv", tile_repeats=2)
    return out, compose_dataset(made, out)


def content(root):
    """Every file but data.yaml, which says where the set lies."""
    files = (p for p in sorted(root.rglob("*")) if p.is_file() and p.name != "data.yaml")
    return {p.relative_to(root): p.read_bytes() for p in files}


def test_two_workers_write_the_bytes_of_one_and_leave_no_parts(tmp_path, fields):
    made = recipe(
        scenes={"train": 4, "val": 1, "test": 0},
        fields=(fields,),
        labelled_fields=fields,
        field_splits=fields / "splits.csv",
    )
    for workers in (1, 2):
        compose_dataset(made, tmp_path / str(workers), workers=workers, masks=True)
    first, second = content(tmp_path / "1"), content(tmp_path / "2")
    assert {p.parts[0] for p in first} == {"images", "labels", "annotations", "masks", "manifest.json"}
    assert first == second


def test_the_manifest_is_formatted_as_json_formats_it(composed):
    out, manifest = composed
    assert (out / "manifest.json").read_text() == json.dumps(manifest, ensure_ascii=False, indent=1) + "\n"


def test_a_folder_is_left_empty_where_a_field_cannot_be_read(tmp_path, fields):
    broken = tmp_path / "fields"
    broken.mkdir()
    (broken / "a.png").write_bytes((fields / "images" / "a.png").read_bytes()[:2000])
    with pytest.raises(SlideError, match=r"a\.png"):
        compose_dataset(recipe(fields=(broken,)), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_yolo_and_coco_say_the_same_boxes(composed):
    out, manifest = composed
    for split in ("train", "val", "test"):
        yolo = {Path(i.image).name: i for i in read_yolo(out, split=split)}
        coco = {i.image: i for i in read_coco(out / "annotations" / f"{split}.json")}
        assert set(yolo) == set(coco)
        assert len(yolo) == manifest["images"][split]
        for name, image in coco.items():
            assert yolo[name].labels == image.labels
            np.testing.assert_allclose(yolo[name].boxes, image.boxes, atol=0.02)


def test_grains_of_one_split_never_show_in_another(composed):
    _, manifest = composed
    sources = {
        split: {g["source"] for s in manifest["scenes"] if s["split"] == split for g in s.get("grains", ())}
        for split in ("train", "val", "test")
    }
    assert all(sources.values())
    assert not sources["train"] & sources["val"]
    # The two folders use the same file names, so only the taxa that both show could be confused; the paths differ.
    assert not {s for s in sources["test"] if "@" in s} & sources["train"]


def test_taxa_held_out_are_labelled_unknown_and_stay_in_their_split(composed):
    _, manifest = composed
    assert manifest["classes"][-1] == "unknown"
    assert not {"Zea mays", "Mimosa pigra", "Tridax procumbens"} & set(manifest["classes"])
    for scene in manifest["scenes"]:
        for grain in scene.get("grains", ()):
            held_out = [split for split, taxa in UNKNOWN.items() if grain["taxon"] in taxa]
            assert (grain["label"] == "unknown") == bool(held_out)
            assert held_out in ([], [scene["split"]])


def test_tiles_of_labelled_fields_keep_every_whole_grain_once(composed):
    out, manifest = composed
    unscaled = [s for s in manifest["scenes"] if s.get("silver") and s["background"] == "b.png"]
    assert {s["split"] for s in unscaled} == {"test"}
    boxes = [b for i in read_coco(out / "annotations" / "test.json") for b in i.boxes if i.image.startswith("b_0_")]
    whole = [b for b in boxes if np.allclose(b[2:] - b[:2], 51, atol=1)]
    assert len(whole) == 3  # Two of the five are cut by the border of a tile.
    assert "Oryza" in manifest["classes"]


def test_labels_of_a_field_smaller_than_a_tile_lie_on_its_grains(tmp_path):
    """An ellipse's extent, in the tile as written; YOLO's labels are shares of that tile."""
    for kind in ("images", "labels"):
        (tmp_path / "fields" / kind).mkdir(parents=True)
    picture = np.full((180, 200, 3), 235, np.uint8)
    cv2.ellipse(picture, (120, 90), (40, 25), 0, 0, 360, (70, 90, 140), -1)
    cv2.imwrite(str(tmp_path / "fields/images/a.png"), picture)
    (tmp_path / "fields/labels/a.txt").write_text(f"0 {120.5 / 200} {90.5 / 180} {81 / 200} {51 / 180}\n")
    out = tmp_path / "set: a #1"
    compose_dataset(recipe(labelled_fields=tmp_path / "fields", scenes={"train": 0, "val": 1, "test": 0}), out)
    (tile,) = [image for image in read_yolo(out / "data.yaml") if "scene" not in image.image]
    dark = cv2.imread(str(out / tile.image), cv2.IMREAD_GRAYSCALE) < 160
    rows, columns = dark.any(1).nonzero()[0], dark.any(0).nonzero()[0]
    extent = [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    np.testing.assert_allclose(tile.boxes, [extent], atol=1)
    assert (tile.width, tile.height) == dark.shape[::-1]


def test_the_manifest_tells_how_to_make_it_again(composed):
    out, manifest = composed
    stored = json.loads((out / "manifest.json").read_text())
    assert stored == manifest
    assert stored["recipe"]["seed"] == 0
    assert stored["recipe"]["scene"]["size"] == 256
    grain = next(g for s in stored["scenes"] for g in s.get("grains", ()))
    assert {"source", "label", "taxon", "box", "visible", "angle", "scale", "focus"} <= set(grain)


def test_unknown_taxa_are_alone_in_their_genus_and_differ_by_split():
    taxa = sorted({r.taxon for r in find_references(PICTURES / "train")})
    chosen = choose_unknown(taxa, seed=0)
    flat = [t for part in chosen.values() for t in part]
    assert len(flat) == len(set(flat)) >= 3
    assert not {"serjania_erecta", "serjania_sp"} & set(flat)


def test_references_are_split_by_taxon_and_no_picture_is_in_both():
    references = find_references(PICTURES / "train")
    train, val = split_references(references, 0.25, seed=1)
    assert {r.taxon for r in train} == {r.taxon for r in val}
    assert not set(train) & set(val)
    assert len(train) + len(val) == len(references)


def test_isolated_grains_are_whole_and_alone(fields):
    field = read_fields(fields, all_marked=False)[0]
    found = isolated_grains(field, fields / "images" / "a.png", "Oryza", limit=10, seed=0)
    assert len(found) == 5
    crowded = type(field)(field.name, field.picture, np.array([[50, 50, 100, 100], [90, 60, 140, 110]], np.float32))
    assert not isolated_grains(crowded, fields / "images" / "a.png", "Oryza", limit=10, seed=0)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"reference": PICTURES / "nowhere"}, InputError, "does not exist"),
        ({"unknown": {"train": ("no_such",), "val": (), "test": ()}}, UsageError, "no_such"),
        ({"scenes": {"train": 0, "val": 0, "test": 0}}, InputError, "nothing was composed"),
    ],
)
def test_what_cannot_be_composed_is_refused(tmp_path, change, error, says):
    options = dict(change)
    reference = options.pop("reference", PICTURES / "train")
    with pytest.raises(error, match=says):
        compose_dataset(
            Recipe(reference, unknown=options.pop("unknown", UNKNOWN), scene=SMALL, **options), tmp_path / "out"
        )


def test_a_test_taxon_that_nothing_is_trained_on_is_refused(tmp_path):
    test = shutil.copytree(PICTURES / "val", tmp_path / "val")
    shutil.copytree(test / "zea_mays", test / "quercus_robur")
    with pytest.raises(InputError, match="got also quercus_robur, which have no class"):
        compose_dataset(recipe(test_reference=test), tmp_path / "out")


def test_a_folder_that_holds_files_is_not_written_into(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match="new or empty"):
        compose_dataset(recipe(), tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "keep"


def test_masks_are_the_boxes_grains_and_change_no_byte_of_the_rest(tmp_path):
    made = recipe(scenes={"train": 3, "val": 2, "test": 0})
    compose_dataset(made, tmp_path / "plain")
    compose_dataset(made, tmp_path / "masked", masks=True)

    masked = {p: b for p, b in content(tmp_path / "masked").items() if p.parts[0] != "masks"}
    assert masked == content(tmp_path / "plain")
    assert not (tmp_path / "plain" / "masks").exists()
    for split, scenes in (("train", 3), ("val", 2)):
        masks = read_masks(tmp_path / "masked" / "masks" / f"{split}.json")
        boxes = {i.image: i for i in read_coco(tmp_path / "masked" / "annotations" / f"{split}.json")}
        assert len(masks) == scenes and masks.keys() == boxes.keys()
        for name, grains in masks.items():
            assert [g.label for g in grains] == list(boxes[name].labels)
            for grain, box in zip(grains, boxes[name].boxes, strict=True):
                assert grain.box == tuple(box) == mask_extent(grain.mask)
    with pytest.raises(InputError, match="expected masks as `palyno compose --masks` writes them"):
        read_masks(tmp_path / "plain" / "annotations" / "train.json")
