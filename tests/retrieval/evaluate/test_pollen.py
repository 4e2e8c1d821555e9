"""The palynological test set: what ships is what its tables make, and relevance is what the tags say."""

import csv
from collections import Counter, defaultdict

import pytest
from palyno import InputError
from palyno.retrieval.evaluate.pollen import FOLDER, SPLITS, read_pollen
from palyno.retrieval.evaluate.pollen.make import LANGUAGES, build, relevant, split_of, tags_of


@pytest.fixture(scope="module")
def tasks():
    return {split: read_pollen(split) for split in SPLITS}


@pytest.fixture(scope="module")
def taxa():
    with (FOLDER / "taxa.csv").open(encoding="utf-8", newline="") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def test_what_ships_is_what_the_tables_make():
    for name, content in build().items():
        assert (FOLDER / name).read_text(encoding="utf-8") == content, name


def test_it_is_as_large_and_as_mixed_as_it_says(tasks):
    queries = tasks["dev"].queries | tasks["test"].queries
    assert len(queries) == 742 == len(tasks["dev"].queries) + len(tasks["test"].queries)
    assert len(tasks["test"].corpus) == 115 and len(tasks["atlas"].queries) == 28
    for task in (tasks["dev"], tasks["test"]):
        assert set(Counter(about["kind"] for about in task.about.values())) == (
            {"name", "terms", "plain words", "negation"}
        )
        assert set(Counter(about["language"] for about in task.about.values())) == set(LANGUAGES)


def test_no_question_is_in_both_halves(tasks):
    tasks = {split: tasks[split] for split in ("dev", "test")}
    asked = {split: {about["asks"] for about in task.about.values()} for split, task in tasks.items()}
    assert not asked["dev"] & asked["test"]
    assert all(split_of(question) == split for split, questions in asked.items() for question in questions)
    texts = [set(task.queries.values()) for task in tasks.values()]
    assert not texts[0] & texts[1]


def test_relevance_is_what_the_tags_say(tasks, taxa):
    """Recomputed here in another way: each document by itself."""
    for task in tasks.values():
        for query, about in task.about.items():
            expected = set()
            for name, row in taxa.items():
                own = set(row["tags"].split())
                mean = (int(row["um_min"]) + int(row["um_max"])) / 2
                own |= {"verylarge"} if mean >= 100 else {"verysmall"} if mean < 10 else set()
                if about["asks"] == f"={name}" or (
                    not about["asks"].startswith("=")
                    and all(
                        not (own & set(part[1:].split("/"))) if part[0] == "!" else own & set(part.split("/"))
                        for part in about["asks"].split()
                    )
                ):
                    expected.add(name)
            assert set(task.qrels[query]) == expected and expected


def test_descriptions_are_whole_and_name_their_sources(taxa):
    codes = {"B", "M", "P", "DA", "VO", "S", "A", "Z"}
    apertures = {"monoporate", "diporate", "triporate", "stephanoporate", "periporate", "tricolpate", "stephanocolpate"}
    apertures |= {"tricolporate", "stephanocolporate", "heterocolpate", "syncolpate", "monosulcate", "inaperturate"}
    for name, row in taxa.items():
        assert row["sources"] and set(row["sources"].split()) <= codes, name
        assert 5 <= int(row["um_min"]) < int(row["um_max"]) <= 210, name
        assert len(row["text"].split()) > 15, name
        tags = row["tags"].split()
        assert len(tags) == len(set(tags)), name
    tags = {name: set(row["tags"].split()) for name, row in taxa.items()}
    # Wheat pollinates itself.
    assert {name for name, own in tags.items() if not own & {"wind", "insect", "spore"}} == {"triticum"}
    unplaced = {name for name, own in tags.items() if not own & apertures}
    saccate_or_spores = {name for name, own in tags.items() if own & {"saccate", "monolete", "trilete", "polyplicate"}}
    # A frill in place of sacs, a ring in place of a furrow, units of several grains.
    assert unplaced - saccate_or_spores == {"tsuga", "nymphaea", "acacia", "drosera"}


def test_sizes_have_one_class_and_unknown_tags_are_refused():
    row = {"tags": "tree", "um_min": "20", "um_max": "30"}
    assert tags_of(row) == {"tree", "medium"}
    tags = {"a": frozenset({"tree", "wind"}), "b": frozenset({"herb", "wind"})}
    assert relevant("wind !tree", tags) == ["b"] and relevant("tree/herb", tags) == ["a", "b"]
    for asks in ("wind tall", "=c"):
        with pytest.raises(InputError, match=r"expected a t"):
            relevant(asks, tags)


def test_every_wording_is_in_one_place(tasks):
    by_text = defaultdict(set)
    for task in tasks.values():
        for query, text in task.queries.items():
            by_text[text].add((task.about[query]["asks"], task.about[query]["language"]))
    repeated = {text: places for text, places in by_text.items() if len({asks for asks, _ in places}) > 1}
    assert not repeated
