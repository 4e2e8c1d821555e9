from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from palyno.data.texts import TEXT_SUFFIXES, read_texts
from palyno.errors import AnnotationError, PalynoError, UsageError


@pytest.fixture
def read(tmp_path):
    def reader(name, text):
        (tmp_path / name).write_text(text, encoding="utf-8", newline="")
        return read_texts(tmp_path / name)

    return reader


def texts(found):
    return [passage.text for passage in found.passages]


def test_a_paragraph_is_a_text(read):
    found = read("notes.txt", "\ufeffOne\r\nline.\r\n\r\n \t\r\nTwo.\n\n\n\nTwo.\n")
    assert texts(found) == ["One line.", "Two."]
    assert found.skipped == (("notes.txt:9", "stands there twice"),)
    again = read("notes.txt", "Before.\n\nOne line.\n")
    assert again.passages[1].key == found.passages[0].key


def test_json_lines(read):
    lines = ['{"_id": "d1", "title": "T", "text": "x", "n": 3}', "", "[1]", "{bad", '{"text": 5}', '{"title": " "}']
    lines += ['{"id": 3, "text": "ok", "taxon": "Betula"}', '{"id": 3, "text": "other"}', '{"text": "a\\u0000b"}']
    lines += ['{"text": "\\ud800"}', '{"text": "x", "taxon": 5}', "[" * 100_000]
    found = read("c.jsonl", "\n".join(lines))
    first, second = found.passages
    assert (first.key, first.text, first.taxon, first.extra) == ("c.jsonl:d1", "T\nx", None, {"n": 3})
    assert (second.key, second.text, second.taxon, second.extra) == ("c.jsonl:3", "ok", "Betula", {})
    assert [place for place, _ in found.skipped] == [f"c.jsonl:{n}" for n in (3, 4, 5, 6, 8, 9, 10, 11, 12)]


def test_a_table(read):
    found = read("t.csv", 'id,title,text,depth\n1,"A, b",c,2.5\n2,short\n3,,,1\n4,"two\nlines",,\n')
    assert texts(found) == ["A, b\nc", "two\nlines"]
    assert found.passages[0].extra == {"depth": "2.5"}
    assert [place for place, _ in found.skipped] == ["t.csv:3", "t.csv:4"]
    with pytest.raises(AnnotationError, match="a column `text` or `title`, got a, b"):
        read("u.csv", "a,b\n1,2\n")
    assert "what follows is not read" in read("v.csv", 'text\nfine\n"open').skipped[0][1]


BIB = r"""
@string{grana = "Grana"}
@article{moore91,
  title = {The {P}ollen of \textit{Prunus} in {M\"unchen} {\&} Lule{\aa}},
  author = {F{\ae}gri, Knut and Sm\'{\i}d, \v{Z}. and {\O}vstedal, D. and \c{S}en, A.},
  year = 1989, month = jan,
  journal = grana # " " # {Suppl.},
  abstract = "Grains of 20--30 {\textmu}m, 50\% \"arid\", {a} = b",
  keywords = {pollen, key; wall},
}
@comment{ @article{hidden, title={no}} }
@book{open, title = {Never closed, year = 2000}

@article(round, title = {In parentheses})
@misc{nothing, year = 2000}
@misc{
@article{moore91, title = {Again}}
@inproceedings{last, title = "x" }"""


def test_bibtex(read):
    found = read("l.bib", BIB)
    first, second, third = found.passages
    assert first.text == 'The Pollen of Prunus in München & Luleå\nGrains of 20–30 µm, 50% ärid", a = b'
    assert first.extra == {
        "type": "article",
        "authors": ["Fægri, Knut", "Smíd, Ž.", "Øvstedal, D.", "Şen, A."],
        "year": "1989",
        "journal": "grana Suppl.",
        "keywords": ["pollen", "key", "wall"],
    }
    assert [first.key, second.key, third.key] == ["l.bib:moore91", "l.bib:round", "l.bib:last"]
    assert [place for place, _ in found.skipped] == ["l.bib:12", "l.bib:15", "l.bib:16", "l.bib:17"]
    assert found.skipped[-1][1] == "a second entry with the key 'l.bib:moore91'"


def test_bibtex_with_several_entries_in_a_line_loses_none(read):
    found = read(
        "m.bib", "@misc{a, title={one, see a@b.org}} @misc{b, title={two}}@string{x={y}}\n@misc{c, title={three\n"
    )
    assert texts(found) == ["one, see a@b.org", "two"]
    assert [place for place, _ in found.skipped] == ["m.bib:2"]
    found = read("n.bib", "@misc{a, title={one}} @misc{b, title={two}\n@misc{c, title={three}}")
    assert texts(found) == ["one", "three"] and [place for place, _ in found.skipped] == ["n.bib:1"]


RIS = """TY  - JOUR
TI  - Pollen of
long title
AU  - Moore, P. D.
AU  - Webb, J. A.
KW  - key
PY  - 1991
AB  - Text.
DO  - 10.1/x
ID  - 7
ER  - \r

TY  - BOOK
TI  - lost
TY  - JOUR
T1  - Kept
ER  -
junk
TY  - JOUR
TI  - open
"""


def test_ris(read):
    found = read("r.ris", RIS)
    assert texts(found) == ["Pollen of long title\nText.", "Kept"]
    assert found.passages[0].key == "r.ris:7"
    assert found.passages[0].extra["authors"] == ["Moore, P. D.", "Webb, J. A."]
    assert (found.passages[0].extra["year"], found.passages[0].extra["doi"]) == ("1991", "10.1/x")
    assert [place for place, _ in found.skipped] == ["r.ris:13", "r.ris:18", "r.ris:19"]


def test_a_text_without_words_or_of_a_whole_library_is_left_out_and_told(read):
    lines = [
        json.dumps({"_id": i, "text": text}) for i, text in enumerate(["🌸 —", "a" * 1_000_000, "a" * 1_000_001, "松"])
    ]
    found = read("t.jsonl", "\n".join(lines))
    assert [len(text) for text in texts(found)] == [1_000_000, 1]
    assert [place for place, _ in found.skipped] == ["t.jsonl:1", "t.jsonl:3"]
    assert "without a letter or digit" in found.skipped[0][1] and "got 1,000,001; split it" in found.skipped[1][1]


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.doc").write_text("x")
    with pytest.raises(UsageError, match=r"\.bib"):
        read_texts(tmp_path / "a.doc")
    (tmp_path / "latin.txt").write_bytes("Füße".encode("latin-1"))
    with pytest.raises(AnnotationError, match="save the file as UTF-8"):
        read_texts(tmp_path / "latin.txt")
    with pytest.raises(AnnotationError, match="cannot be read"):
        read_texts(tmp_path / "missing.txt")


@given(st.sampled_from(TEXT_SUFFIXES), st.text("@{}(),=\"'#\\\n\r aTYER-  1[]:%$~^`x", max_size=80))
def test_any_text_is_read_or_told(tmp_path_factory, suffix, text):
    file = tmp_path_factory.getbasetemp() / f"any{suffix}"
    file.write_text(text, encoding="utf-8")
    try:
        found = read_texts(file)
    except PalynoError:
        return
    assert all(passage.text.strip() and passage.key for passage in found.passages)
    assert len({passage.key for passage in found.passages}) == len(found.passages)
