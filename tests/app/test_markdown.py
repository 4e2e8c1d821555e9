"""Pages that figures are written into: marked places only, all or none; documents of other commands are refused."""

from __future__ import annotations

import json

import pytest
from palyno.app.markdown import fill_page, read_document, table
from palyno.errors import InputError, UsageError

TWO = "a\n<!-- bench:x -->\nold\n<!-- /bench:x -->\nb <!-- bench:y --><!-- /bench:y -->\n"


@pytest.fixture
def page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(TWO)
    return page


def test_a_table_by_hand():
    assert table(["", "n"], [["rice", "3"]]) == "|  | n |\n| --- | --- |\n| rice | 3 |"


def test_every_place_is_filled_and_again_the_same(page):
    for _ in range(2):
        # A backslash and a group's name are text, not a pattern's.
        assert fill_page(page, {"x": "X \\1", "y": r"\g<1>", "spare": "Z"}) == ["x", "y"]
        assert page.read_text() == (
            "a\n<!-- bench:x -->\nX \\1\n<!-- /bench:x -->\nb <!-- bench:y -->\n\\g<1>\n<!-- /bench:y -->\n"
        )


def test_in_part_other_places_stay_as_they_are(page):
    assert fill_page(page, {"y": "Y"}, whole=False) == ["y"]
    assert page.read_text() == TWO.replace("<!-- bench:y -->", "<!-- bench:y -->\nY\n")


@pytest.mark.parametrize(
    ("text", "whole", "says"),
    [
        (TWO, True, "bench:y: expected one of x"),
        (TWO.replace("bench:x", "bench:z"), False, "expected places such as <!-- bench:x --> <!-- /bench:x -->"),
        ("no marks", True, "expected places such as <!-- bench:x -->"),
        ("<!-- bench:x --> never closed", True, "one pair of marks"),
        ("<!-- bench:x --><!-- bench:x --><!-- /bench:x -->", True, "one pair of marks"),
        ("<!-- bench:x --><!-- /bench:x -->" * 2, False, "one pair of marks"),
    ],
)
def test_a_page_that_does_not_fit_is_refused_and_kept(page, text, whole, says):
    page.write_text(text)
    with pytest.raises(UsageError, match=says):
        fill_page(page, {"x": "X"}, whole=whole)
    assert page.read_text() == text


def test_a_missing_page_is_told(tmp_path):
    with pytest.raises(UsageError, match="expected a page with places for tables, got No such file"):
        fill_page(tmp_path / "none.md", {"x": "X"}, whole=False)


def test_a_document_is_read_where_it_is_the_commands(tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"schema": 2, "cases": []}))
    assert read_document(file, "bench tea", schema=2, has=["cases"]) == {"schema": 2, "cases": []}
    assert read_document(str(file), "bench tea") == {"schema": 2, "cases": []}


@pytest.mark.parametrize("text", [None, "", "{", "[1]", "{}", '{"schema": 1, "cases": []}', '{"schema": 2}'])
def test_other_files_are_refused(tmp_path, text):
    file = tmp_path / "a.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match=r"a\.json: expected figures of `palyno bench tea`"):
        read_document(file, "bench tea", schema=2, has=["cases"])
