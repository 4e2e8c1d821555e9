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
        "journal": "Grana Suppl.",
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


STRINGS = r"""
@String { RPP = {Rev. Palaeobot. Palynol.} } @string{suppl = " (Suppl.)"}
@STRING(Grana = "Gr{\"a}na")
@string{of-europe = "of northwest " # EUROPE}
@string{europe = {Europe}}
@string{flora = "The Northwest European Pollen Flora, " # {I}}
@string{punt = "Punt, W."}
@string{clarke = {Clarke, G. C. S.}}

@article{punt76, author = punt # " and " # clarke, title = flora # "I: " # {Caryophyllaceae}, journal = rpp}
@article{erdtman, title = "Notes " # of-europe, journal = GRANA # suppl, volume = 12 # "--" # 13}
@string{rpp = "Review of Palaeobotany and Palynology"}
@article{later, title = {Stone, {rpp}}, journal = RPP, year = 1993}
@article{style, title = {An abbreviation of a style}, journal = jqs # suppl}
"""


def test_names_that_a_bibtex_file_gives_to_texts_are_put_in(read):
    found = read("s.bib", STRINGS)
    assert found.skipped == ()
    assert {p.key.removeprefix("s.bib:"): (p.text, p.extra.get("journal")) for p in found.passages} == {
        "punt76": ("The Northwest European Pollen Flora, II: Caryophyllaceae", "Rev. Palaeobot. Palynol."),
        # What is given a name later does not count yet, as in BibTeX.
        "erdtman": ("Notes of northwest EUROPE", "Gräna (Suppl.)"),
        "later": ("Stone, rpp", "Review of Palaeobotany and Palynology"),
        "style": ("An abbreviation of a style", "jqs (Suppl.)"),
    }
    assert found.passages[0].extra["authors"] == ["Punt, W.", "Clarke, G. C. S."]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("@string{}", "expected NAME = value in @string, got '}'"),
        ("@string{rpp}", "expected NAME = value"),
        ('@string{1976 = "x"}', "expected NAME = value"),
        ("@string{rpp = }", "expected a value"),
        ('@string{rpp = "x" # }', "expected a value"),
        ('@string{rpp = "never closed}', "expected a closing brace or quote"),
        ('@string{rpp = "x", grana = "y"}', "expected } at its end, got 'grana"),
    ],
)
def test_a_name_given_wrongly_is_told_and_the_entries_are_kept(read, wrong, why):
    found = read("w.bib", f"{wrong}\n@misc{{a, title = {{One}}, journal = rpp, year = 1976}}")
    ((place, told),) = found.skipped
    assert place == "w.bib:1" and why in told
    assert (found.passages[0].extra["journal"], found.passages[0].extra["year"]) == ("rpp", "1976")


def test_comments_and_preambles_in_a_line_hide_no_entry_behind_them(read):
    text = '@preamble{"\\def\\x{y}"} @misc{a, title={one}} @comment{@misc{b, title={two}}} @misc{c, title={three}}'
    assert texts(read("p.bib", text)) == ["one", "three"]
    assert texts(read("q.bib", "@comment(@misc{b, title={two}})\n@misc{c, title={three}}")) == ["three"]


def test_names_that_double_each_other_fill_no_memory(read):
    lines = ['@string{a0 = "pollen grains"}', *(f"@string{{a{i} = a{i - 1} # a{i - 1}}}" for i in range(1, 64))]
    found = read("b.bib", "\n".join([*lines, "@misc{a, title = a63}", "@misc{b, title = {fine}}"]))
    assert texts(found)[-1] == "fine" and max(map(len, texts(found))) < 10_000
    assert {place.partition(":")[0] for place, _ in found.skipped} == {"b.bib"}
    assert "to put in no more than ten times the file, got a12 again" in found.skipped[0][1]
    # So do entries that use one long name each.
    many = "\n".join(f"@misc{{k{i}, title = {{t{i}}}, journal = long}}" for i in range(3000))
    found = read("m.bib", f"@string{{long = {{{'pollen ' * 5000}}}}}\n{many}")
    assert sum(len(p.extra["journal"]) for p in found.passages) < 3_000_000 and len(found.skipped) > 2900


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
