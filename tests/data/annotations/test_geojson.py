from __future__ import annotations

import json
from uuid import UUID

import numpy as np
import pytest
from palyno.data.annotations import LabelledImage
from palyno.data.annotations.geojson import read_geojson, write_geojson
from palyno.data.palette import colours
from palyno.errors import AnnotationError, UsageError
from shapely.geometry import shape


@pytest.mark.parametrize("kind", ["truth", "detections"])
def test_what_is_written_is_read_back(kind, request, same, tmp_path):
    images = request.getfixturevalue(kind)
    found = [read_geojson(write_geojson(image, tmp_path / f"{i}.geojson")) for i, image in enumerate(images)]
    same(found, images, px=0.01)


def test_measurements_are_kept(results, tmp_path):
    image = results[0].to_annotations()
    found = read_geojson(write_geojson(image, tmp_path / "a.geojson"))
    for name in ("width_um", "height_um"):
        np.testing.assert_allclose(found.measurements[name], image.measurements[name], atol=1e-3)


def test_features_are_what_qupath_expects(results, tmp_path):
    document = json.loads(write_geojson(results[0].to_annotations(), tmp_path / "a.geojson").read_text())
    assert document["type"] == "FeatureCollection"
    for feature, (x1, y1, x2, y2) in zip(document["features"], results[0].boxes, strict=True):
        (ring,) = feature["geometry"]["coordinates"]
        assert feature["type"] == "Feature" and feature["geometry"]["type"] == "Polygon"
        assert len(ring) == 5 and ring[0] == ring[-1]
        np.testing.assert_allclose(shape(feature["geometry"]).bounds, (x1, y1, x2, y2), atol=0.01)
        assert shape(feature["geometry"]).is_valid
        assert str(UUID(feature["id"])) == feature["id"]
        properties = feature["properties"]
        assert properties["objectType"] == "detection"
        assert all(type(c) is int and 0 <= c <= 255 for c in properties["classification"]["color"])
        assert set(properties["measurements"]) == {"confidence", "width_um", "height_um"}
        assert "plane" not in feature["geometry"]


def test_ids_stay_with_slide_and_grain(detections, tmp_path):
    def ids(image, name):
        return [f["id"] for f in json.loads(write_geojson(image, tmp_path / name).read_text())["features"]]

    first, again = ids(detections[0], "a"), ids(detections[0], "b")
    other = ids(detections[1], "c")
    assert first == again
    assert len({*first, *other}) == len(first) + len(other)


def test_numbers_that_json_cannot_hold_are_left_out(tmp_path):
    image = LabelledImage("a", 9, 9, [[0, 0, 1, 1]], ("x",), measurements={"p": np.array([np.nan])})
    text = write_geojson(image, tmp_path / "a.geojson").read_text()
    assert "NaN" not in text and json.loads(text)["features"][0]["properties"]["measurements"] == {}


def test_colours_are_the_palettes_or_those_given(detections, tmp_path):
    def told(name, **options):
        document = json.loads(write_geojson(detections[0], tmp_path / name, **options).read_text())
        classes = [feature["properties"]["classification"] for feature in document["features"]]
        return {one["name"]: tuple(one["color"]) for one in classes}

    assert told("own") == colours([(detections[0].labels, detections[0].confidence)])
    given = {name: (i, 0, 255) for i, name in enumerate(sorted(set(detections[0].labels)))}
    assert told("given", palette=given) == given


def feature(**change):
    made = {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [[[2, 1], [8, 3], [4, 9], [2, 1]]]},
        "properties": {"objectType": "annotation", "classification": {"name": "Oryza", "colorRGB": -377282}},
    }
    return made | change


def test_outlines_of_qupath_are_read_as_their_bounds(tmp_path):
    parts = {
        "type": "MultiPolygon",
        "coordinates": [[[[1, 1], [2, 1], [2, 2], [1, 1]]], [[[5, 5], [6, 5], [6, 7], [5, 5]]]],
    }
    measured = {**feature()["properties"], "measurements": [{"name": "Area", "value": 12.5}]}
    path = tmp_path / "slide 7.geojson"
    path.write_text(json.dumps([feature(properties=measured), feature(geometry=parts)]))
    image = read_geojson(path, width=100, height=100)
    assert image.boxes.tolist() == [[2, 1, 8, 9], [1, 1, 6, 7]]
    assert (image.image, image.labels, image.ids, image.confidence) == ("slide 7", ("Oryza", "Oryza"), None, None)
    np.testing.assert_array_equal(image.measurements["Area"], [12.5, np.nan])
    with pytest.raises(UsageError, match="how large"):
        read_geojson(path)


@pytest.mark.parametrize(
    "bad",
    [
        feature(geometry={"type": "Point", "coordinates": [1, 2]}),
        feature(geometry=None),
        feature(geometry={"type": "Polygon", "coordinates": []}),
        feature(geometry={"type": "Polygon", "coordinates": [[["a", 1]]]}),
        feature(properties={"objectType": "annotation"}),
        feature(properties={"classification": {"name": "x"}, "measurements": {"a": "b"}}),
        "x",
    ],
)
def test_a_fault_is_named_with_its_feature(bad, tmp_path):
    (tmp_path / "a.geojson").write_text(json.dumps([feature(), bad]))
    with pytest.raises(AnnotationError, match=r"a\.geojson: features\[1\]: expected a polygon with a classification"):
        read_geojson(tmp_path / "a.geojson", width=10, height=10)


@pytest.mark.parametrize(
    ("text", "line"), [("{\n,", ":2"), ("{}", ""), ('{"features": {}}', ""), ("3", ""), ("\n\n\n\udcff", ":4")]
)
def test_another_document_is_refused(text, line, tmp_path):
    (tmp_path / "a.geojson").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(AnnotationError, match=rf"a\.geojson{line}: expected"):
        read_geojson(tmp_path / "a.geojson", width=10, height=10)
