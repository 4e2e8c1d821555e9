"""`grains.csv`, `counts.csv` and `grains.parquet`."""

from __future__ import annotations

import csv
import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from palyno.data.annotations.csv import (
    _GUARDED,
    COUNT_COLUMNS,
    GRAIN_COLUMNS,
    NO_TAXON,
    _cell,
    boxes_of,
    grain_rows,
    read_counts,
    read_grains,
    write_counts,
    write_grains,
)
from palyno.data.annotations.parquet import read_parquet, write_parquet
from palyno.errors import AnnotationError, UsageError
from palyno.vision.results import Provenance, SlideResult


def sizes(results):
    return {result.slide: (result.width, result.height) for result in results}


def test_grains_are_read_back_from_csv(results, same, tmp_path):
    rows = read_grains(write_grains(results, tmp_path / "grains.csv"))
    same(boxes_of(rows, sizes(results)), [r.to_annotations() for r in results], px=0.006)
    expected = [row for result in results for row in grain_rows(result)]
    for found, row in zip(rows, expected, strict=True):
        assert [found[c] for c in ("slide", "taxon", "rank", "flags", "candidates")] == [
            row[c] for c in ("slide", "taxon", "rank", "flags", "candidates")
        ]
        assert found["width_um"] == (None if row["width_um"] is None else pytest.approx(row["width_um"], abs=0.005))


def test_rows_say_what_the_grains_say(results):
    for result in results:
        for row, grain in zip(grain_rows(result), result, strict=True):
            assert tuple(row) == GRAIN_COLUMNS
            assert (row["x1"], row["y1"], row["x2"], row["y2"]) == grain.box
            for column in ("slide", "grain_id", "taxon", "confidence", "width_um", "height_um", "rank"):
                assert row[column] == getattr(grain, column)


def test_a_data_frame_has_the_columns_also_without_grains(results):
    for result in results:
        frame = result.to_dataframe()
        assert list(frame) == list(GRAIN_COLUMNS)
        numbers = ["x1", "y1", "x2", "y2", "confidence", "width_um", "height_um"]
        assert {str(kind) for kind in frame[numbers].dtypes} == {"float64"}
        assert frame["width_um"].isna().to_numpy().all() == (result.um_per_px is None or not len(result))
        np.testing.assert_array_equal(frame[numbers[:4]].to_numpy(np.float32), result.boxes)


def test_the_columns_are_the_promised_ones_in_order(results, tmp_path):
    head = "slide,grain_id,x1,y1,x2,y2,taxon,confidence,width_um,height_um,flags,rank,candidates"
    assert write_grains(results, tmp_path / "g.csv").read_text(encoding="utf-8").split("\n")[0] == head
    head = "slide,taxon,n,sum,percent,low,high,level,method"
    assert write_counts(results, tmp_path / "c.csv").read_text(encoding="utf-8").split("\n")[0] == head


def test_cells_have_fixed_decimals(results, tmp_path):
    path = write_grains(results, tmp_path / "g.csv")
    with path.open(encoding="utf-8", newline="") as file:
        row = next(csv.DictReader(file))
    grain = results[0][0]
    assert [row["x1"], row["y1"], row["x2"], row["y2"]] == ["0.00", "0.00", "17.25", "9.50"]
    assert (row["width_um"], row["height_um"]) == ("4.31", "2.38")
    assert row["confidence"] == f"{grain.confidence:.4f}"
    assert (row["flags"], row["candidates"]) == ("edge;saturated", "Zea mays:0.41;Poaceae:0.22")
    assert _cell("x1", -0.001) == "0.00"


@pytest.mark.parametrize("write", [write_grains, write_counts, write_parquet])
def test_equal_results_are_equal_bytes(write, results, tmp_path):
    first = write(results, tmp_path / "a").read_bytes()
    assert write(iter(results), tmp_path / "b").read_bytes() == first


def test_pandas_reads_the_same_grains_from_all(results, tmp_path):
    from_csv = pd.read_csv(write_grains(results, tmp_path / "g.csv"), dtype={"grain_id": str})
    from_parquet = pd.read_parquet(write_parquet(results, tmp_path / "g.parquet"))
    assert list(from_csv) == list(from_parquet) == list(GRAIN_COLUMNS)
    boxes = np.concatenate([result.boxes for result in results])
    for frame in (from_csv, from_parquet):
        np.testing.assert_allclose(frame[["x1", "y1", "x2", "y2"]], boxes, atol=0.006)
        assert list(frame.grain_id) == [i for result in results for i in result.grain_ids]
        assert frame.width_um.isna().sum() == 3
    assert list(from_parquet.taxon) == [taxon for result in results for taxon in result.taxa]


def test_names_are_made_one_in_the_counts_and_stay_as_written_in_every_row_of_a_grain(tmp_path):
    written = ("Poaceae sp.", "Poaceae", "cf. Poaceae", "Poaceae-type", "Poaceae", "Zea mays")
    made = Provenance("hieraedge-n", "ab" * 32, "0.1.0", {})
    result = SlideResult("a.tif", 99, 99, np.tile([1, 1, 9, 9], (6, 1)), [0.9] * 6, written, made)
    counted = [("Poaceae", 3), ("Poaceae-type", 1), ("Zea mays", 1), ("cf. Poaceae", 1)]
    assert [(row.taxon, row.n) for row in result.counts()] == counted
    (rows,) = read_counts(write_counts([result], tmp_path / "c.csv")).values()
    assert [(row.taxon, row.n) for row in rows] == counted
    # At the rank of a genus a family is named by itself, as at any other.
    assert ("Poaceae", 3) in [(row.taxon, row.n) for row in result.counts(rank="genus")]
    assert tuple(row["taxon"] for row in read_grains(write_grains([result], tmp_path / "g.csv"))) == written
    assert tuple(read_parquet(write_parquet([result], tmp_path / "g.parquet"))[0].labels) == written


def test_counts_are_read_back(results, tmp_path):
    path = write_counts(results, tmp_path / "c.csv")
    found = read_counts(path)
    assert list(found) == [result.slide for result in results]
    for result in results:
        for a, b in zip(found[result.slide], result.counts(), strict=True):
            assert (a.taxon, a.n, a.sum, a.level, a.method) == (b.taxon, b.n, b.sum, b.level, b.method)
            assert (a.percent, a.low, a.high) == pytest.approx((b.percent, b.low, b.high), abs=1e-4)


def test_a_slide_without_grains_has_a_row_without_percentages(results, tmp_path):
    frame = pd.read_csv(write_counts(results, tmp_path / "c.csv"))
    assert list(frame) == list(COUNT_COLUMNS)
    row = frame[frame.slide == "empty.tif"].iloc[0]
    assert (row.taxon, row.n, row["sum"], row.level, row.method) == (NO_TAXON, 0, 0, 0.95, "wilson")
    assert row[["percent", "low", "high"]].isna().all()
    assert frame.groupby(frame.slide.str.lstrip("'")).n.sum().to_dict() == {r.slide: len(r) for r in results}


def test_no_cell_is_a_formula(results, tmp_path):
    for write in (write_grains, write_counts):
        with write(results, tmp_path / write.__name__).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                assert not row["slide"].startswith(tuple("=+-@\t\r"))
                assert not row["taxon"].startswith(tuple("=+-@\t\r"))


@given(st.text(alphabet=st.sampled_from("'=+-@\t\r\nax,\""), max_size=8))
def test_the_guard_is_undone_exactly(text):
    cell = _cell("taxon", text)
    assert not cell.startswith(tuple("=+-@\t\r\n"))
    assert (cell[1:] if _GUARDED.match(cell) else cell) == text


def test_names_with_line_ends_and_quotes_survive(results, tmp_path):
    from dataclasses import replace

    odd = replace(results[1], slide='a\nb\r\n,"c".tif')
    assert {row["slide"] for row in read_grains(write_grains([odd], tmp_path / "g.csv"))} == {odd.slide}


HEAD = ",".join(GRAIN_COLUMNS)
GOOD = "a.tif,0001,1,2,3,4,Oryza,0.5,,,,species,"


def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path):
    (tmp_path / "g.csv").write_bytes(f"{HEAD}\r\n{GOOD}\r\n\r\n".encode("utf-8-sig"))
    (row,) = read_grains(tmp_path / "g.csv")
    assert (row["slide"], row["x1"], row["width_um"]) == ("a.tif", 1.0, None)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", ":1: expected the columns"),
        ("slide,taxon\n", ":1: expected the columns.*missing: grain_id"),
        (f"{HEAD}\n{GOOD}\na,b\n", ":3: expected 13 cells, got 2"),
        (f"{HEAD}\n{GOOD}\n{GOOD.replace('1,2,3,4', '3,2,1,4')}\n", ":3: expected a grain"),
        (f"{HEAD}\n{GOOD.replace('1,2,3,4', '1,2,x,4')}\n", ":2: expected a grain"),
        (f"{HEAD}\n{GOOD.replace('1,2,3,4', '1,2,inf,4')}\n", ":2: expected a grain"),
        (f"{HEAD}\n{GOOD.replace('0.5', 'half')}\n", ":2: expected a grain"),
        (f'{HEAD}\n"a\n', ":2: expected CSV"),
    ],
)
def test_a_fault_in_grains_is_named_with_its_line(text, place, tmp_path):
    (tmp_path / "g.csv").write_text(text)
    with pytest.raises(AnnotationError, match=rf"g\.csv{place}"):
        read_grains(tmp_path / "g.csv")


def test_a_fault_in_counts_is_named_with_its_line(tmp_path):
    (tmp_path / "c.csv").write_text(",".join(COUNT_COLUMNS) + "\na,Oryza,1.5,3,,,,0.95,wilson\n")
    with pytest.raises(AnnotationError, match=r"c\.csv:2: expected a taxon with n"):
        read_counts(tmp_path / "c.csv")


def test_a_slide_of_unknown_size_is_named(results, tmp_path):
    with pytest.raises(AnnotationError, match=r"'a\.tif': expected its width"):
        boxes_of([{"slide": "a.tif"}], {})


def test_parquet_is_read_back_with_slides_without_grains(results, same, tmp_path):
    same(read_parquet(write_parquet(results, tmp_path / "g.parquet")), [r.to_annotations() for r in results], px=0)


def test_parquet_says_where_it_comes_from(results, tmp_path):
    from pyarrow import parquet

    path = write_parquet(results, tmp_path / "g.parquet")
    source = json.loads(parquet.read_metadata(path).metadata[b"palyno"])
    assert source["schema"] == 1
    assert [p["sha256"] for p in source["provenance"]] == ["ab" * 32]
    assert source["provenance"][0]["arguments"] == {"conf": 0.25, "imgsz": 640}
    assert [(s["slide"], s["grains"]) for s in source["slides"]] == [(r.slide, len(r)) for r in results]


def test_parquet_groups_rows_of_many_slides(results, tmp_path, monkeypatch):
    from pyarrow import parquet

    path = write_parquet(results, tmp_path / "a.parquet")
    assert parquet.ParquetFile(path).num_row_groups == 1
    monkeypatch.setattr("palyno.data.annotations.parquet._GROUP_ROWS", 10)
    path = write_parquet(results, tmp_path / "b.parquet")
    assert parquet.ParquetFile(path).num_row_groups == 2
    assert len(parquet.read_table(path)) == 43


@pytest.mark.parametrize("content", [b"", b"PAR1", b"slide,taxon\n"])
def test_another_file_is_no_parquet(content, tmp_path):
    (tmp_path / "g.parquet").write_bytes(content)
    with pytest.raises(AnnotationError, match=r"g\.parquet: expected a Parquet file"):
        read_parquet(tmp_path / "g.parquet")


def test_a_parquet_file_of_something_else_is_refused(tmp_path):
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "g.parquet")
    with pytest.raises(AnnotationError, match=r"g\.parquet: expected a grain table of schema 1"):
        read_parquet(tmp_path / "g.parquet")


@pytest.mark.parametrize("write", [write_grains, write_counts, write_parquet])
def test_a_failing_slide_leaves_no_table(write, results, tmp_path):
    def stream():
        yield results[0]
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write(stream(), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []
    write(results, tmp_path / "a")
    with pytest.raises(UsageError, match="--overwrite"):
        write(results, tmp_path / "a")


def test_a_slide_whose_name_is_no_text_is_read_back(results, same, tmp_path):
    """Linux allows file names that are not UTF-8; Python gives their bytes as surrogates."""
    slide = dataclasses.replace(results[0], slide="a\udc80.tif")
    (read,) = read_parquet(write_parquet([slide], tmp_path / "g.parquet"))
    assert read.image == "a\\udc80.tif"
    same([dataclasses.replace(read, image=slide.slide)], [slide.to_annotations()], px=0)
