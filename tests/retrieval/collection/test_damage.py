"""A byte that changed, or a file that is not what it should be, is refused by name."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import sqlite3

import faiss
import numpy as np
import pytest
from palyno.errors import PalynoError, RejectedModelError
from palyno.retrieval.collection import Collection
from palyno.retrieval.collection.manifest import FileEntry, Manifest, sha256_of


def names(folder):
    return Manifest.read(folder).files


def test_a_flipped_byte_anywhere_is_refused_by_the_files_name(filled):
    rng, kinds = random.Random(0), set()
    for name in ("manifest.json", *names(filled)):
        file = filled / name
        kinds.add(file.suffix)
        sound = file.read_bytes()
        places = {0, 1, len(sound) // 2, len(sound) - 1, *rng.sample(range(len(sound)), 40)}
        for place in places:
            damaged = bytearray(sound)
            damaged[place] ^= 1 << rng.randrange(8)
            file.write_bytes(damaged)
            with pytest.raises(RejectedModelError, match=name):
                Collection.open(filled)
        file.write_bytes(sound)
    assert kinds == {".json", ".sqlite", ".f32", ".faiss"}
    Collection.open(filled).close()


@pytest.mark.parametrize("change", ["flip", "cut", "empty", "missing", "longer"])
def test_verify_names_each_damaged_file_and_no_other(filled, change):
    for name in names(filled):
        file, sound = filled / name, (filled / name).read_bytes()
        if change == "longer" and file.suffix == ".f32":
            continue
        damaged = {
            "flip": sound[:-1] + bytes([sound[-1] ^ 1]),
            "cut": sound[:-1],
            "empty": b"",
            "longer": sound + b"\0",
        }
        file.unlink()
        if change != "missing":
            file.write_bytes(damaged[change])
        with Collection.open(
            filled.parent / "whole" if (filled.parent / "whole").exists() else copy(filled, file, sound)
        ) as c:
            c.path = filled
            assert [check.file for check in c.verify() if not check.ok] == [name]
        with pytest.raises(RejectedModelError, match=name):
            Collection.open(filled)
        file.write_bytes(sound)
    (filled / "manifest.json").write_bytes(b"{}")
    with Collection.open(filled.parent / "whole") as c:
        c.path = filled
        assert [check.file for check in c.verify() if not check.ok] == ["manifest.json"]


def copy(folder, damaged, sound):
    """A sound copy, to call `verify` from."""
    whole = folder.parent / "whole"
    shutil.copytree(folder, whole)
    (whole / damaged.name).write_bytes(sound)
    return whole


def test_bytes_behind_the_last_commit_are_ignored_and_cut_off(filled, unit):
    name = next(name for name in names(filled) if name.endswith(".f32"))
    size = (filled / name).stat().st_size
    with (filled / name).open("ab") as file:
        file.write(b"left by a writer that was killed")
    with Collection.open(filled) as collection:
        collection.embed([1], unit(1, seed=9), "pictures")
        assert (filled / name).stat().st_size == size + 64
    with Collection.open(filled) as collection:
        assert np.array_equal(collection.vectors([1], "pictures"), unit(1, seed=9))


def test_a_byte_that_changes_while_it_is_open_is_not_taken_over(filled, unit):
    name = next(name for name in names(filled) if name.endswith(".f32"))
    with Collection.open(filled) as collection:
        data = bytearray((filled / name).read_bytes())
        data[100] ^= 1
        (filled / name).write_bytes(data)
        with pytest.raises(RejectedModelError, match=name):
            collection.embed([1], unit(1, seed=9), "pictures")


def test_a_damaged_index_is_made_anew_from_the_vectors(filled, unit):
    name = next(name for name in names(filled) if name.endswith(".faiss"))
    (filled / name).write_bytes(b"IwSq" + bytes(400))
    with pytest.raises(RejectedModelError, match="palyno index rebuild makes it anew"):
        Collection.open(filled)
    with Collection.open(filled, indexes=False) as collection:
        collection.rebuild()
    with Collection.open(filled) as collection:
        assert collection.info()["spaces"][0]["index"].startswith("IVF")
        assert collection.search(unit(60)[5], 1, encoder="pictures")[0].id == 6


def forge(folder, change):
    """Changes the index with FAISS, and the manifest so that all hashes fit: what only a forger would do."""
    manifest = Manifest.read(folder)
    space = manifest.spaces[0]
    path = folder / space.index.file.file
    index = change(faiss.read_index(str(path)))
    faiss.write_index(index, str(path))
    entry = dataclasses.replace(space.index, file=FileEntry.of(path))
    spaces = (dataclasses.replace(space, index=entry), *manifest.spaces[1:])
    dataclasses.replace(manifest, spaces=spaces).write(folder)


def _ntotal(value):
    def change(index):
        index.ntotal = value
        return index

    return change


def _twice(index):
    index.add_with_ids(np.eye(16, dtype=np.float32)[:1], np.array([3]))
    index.remove_ids(np.array([4]))
    return index


def _outside(index):
    index.remove_ids(np.array([4]))
    index.add_with_ids(np.eye(16, dtype=np.float32)[:1], np.array([2**40]))
    return index


def _flat(index):
    flat = faiss.IndexFlatIP(16)
    flat.add(np.eye(16, dtype=np.float32))
    return flat


def _metric(index):
    other = faiss.index_factory(16, f"IVF{index.nlist},SQ8", faiss.METRIC_L2)
    return _filled(other)


def _dimension(index):
    return _filled(faiss.index_factory(8, f"IVF{index.nlist},SQ8", faiss.METRIC_INNER_PRODUCT))


def _precise(index):
    return _filled(faiss.index_factory(16, f"IVF{index.nlist},SQfp16", faiss.METRIC_INNER_PRODUCT))


def _nested(index):
    return _filled(faiss.index_factory(16, f"IVF{index.nlist}_HNSW8,SQ8", faiss.METRIC_INNER_PRODUCT))


def _filled(index):
    rows = np.random.default_rng(0).standard_normal((60, index.d)).astype(np.float32)
    index.train(rows)
    index.add(rows)
    return index


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_ntotal(2**62), "ntotal 60, got 46116860184273"),
        (_ntotal(59), "ntotal 60, got 59"),
        (_twice, "each row once"),
        (_outside, "rows below 60, got [0-9]+ to 1099511627776"),
        (_flat, "expected IndexIVFScalarQuantizer, got IndexFlat"),
        (_metric, "got IndexFlatL2"),
        (_dimension, "d 16, got 8"),
        (_precise, "bytes a vector"),
        (_nested, "centres in an IndexFlat, got IndexHNSW"),
        (lambda index: faiss.IndexIDMap2(faiss.IndexFlatIP(16)), "expected IndexIVFScalarQuantizer, got IndexIDMap2"),
    ],
    ids=["ntotal", "fewer", "twice", "outside", "flat", "metric", "dimension", "precise", "nested", "mapped"],
)
def test_an_index_whose_hash_fits_is_still_compared_with_the_manifest(filled, change, said):
    forge(filled, change)
    with pytest.raises(RejectedModelError, match=said):
        Collection.open(filled)
    limits = faiss.get_deserialization_vector_byte_limit(), faiss.get_deserialization_loop_limit()
    assert limits == (1 << 40, 0)


def test_sizes_that_a_file_cannot_hold_are_not_allocated(filled):
    manifest = Manifest.read(filled)
    entry = manifest.spaces[0].index
    sound = (filled / entry.file.file).read_bytes()
    rng, refused = random.Random(1), 0
    for _ in range(150):
        damaged = bytearray(sound)
        for place in rng.sample(range(min(2000, len(damaged))), 4):
            damaged[place] = rng.randrange(256)
        path = filled / entry.file.file
        path.write_bytes(damaged)
        space = dataclasses.replace(manifest.spaces[0], index=dataclasses.replace(entry, file=FileEntry.of(path)))
        dataclasses.replace(manifest, spaces=(space, *manifest.spaces[1:])).write(filled)
        try:
            Collection.open(filled).close()
        except RejectedModelError:
            refused += 1
    assert refused > 10


def tamper(folder, change):
    """Changes the manifest and hashes it anew."""
    from palyno.retrieval.collection.manifest import _encode

    content = json.loads((folder / "manifest.json").read_bytes())["manifest"]
    change(content)
    (folder / "manifest.json").write_bytes(_encode(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(format="palyno-collection-9"),
        lambda m: m.update(generation=0),
        lambda m: m.update(generation="2"),
        lambda m: m.update(count=True),
        lambda m: m.update(surprise=1),
        lambda m: m.pop("spaces"),
        lambda m: m["records"].update(file="../records-000001.sqlite"),
        lambda m: m["records"].update(file="/etc/passwd"),
        lambda m: m["records"].update(sha256="x"),
        lambda m: m["spaces"][0].update(file="vectors-00-000002.f32\n"),
        lambda m: m["spaces"][0].update(dim=2**40),
        lambda m: m["spaces"][0].update(rows=-1),
        lambda m: m["spaces"][0].update(ntotal=10**6),
        lambda m: m["spaces"][0].update(metric="euclidean"),
        lambda m: m["spaces"][0].update(modalities=["sound"]),
        lambda m: m["spaces"][1].update(number=7),
        lambda m: m["spaces"][1].update(encoder_id="pictures"),
        lambda m: m["spaces"][0]["index"].update(nprobe=10**9),
        lambda m: m["spaces"][0]["index"].update(rows=10**6),
        lambda m: m["spaces"][0].update(blocks=["../x"]),
        lambda m: m["spaces"].append({}),
        lambda m: m["spaces"][1].update(file=m["spaces"][0]["file"]),
        lambda m: m.update(spaces=None),
    ],
)  # fmt: skip
def test_a_manifest_that_says_what_cannot_be_is_refused(filled, change):
    tamper(filled, change)
    with pytest.raises(RejectedModelError, match=r"manifest\.json"):
        Collection.open(filled)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(count=5),
        lambda m: m["spaces"][0].update(ntotal=58),
        lambda m: m["spaces"][0].update(rows=59, blocks=m["spaces"][0]["blocks"]),
        lambda m: m["spaces"][0].update(rows=61),
        lambda m: m["spaces"][0].update(encoder_id="others"),
        lambda m: m["spaces"][0].update(blocks=[]),
    ],
)  # fmt: skip
def test_a_manifest_that_does_not_fit_its_files_is_refused(filled, change):
    tamper(filled, change)
    with pytest.raises(RejectedModelError):
        Collection.open(filled)


def test_a_database_that_would_run_code_of_its_maker_is_refused(filled):
    manifest = Manifest.read(filled)
    path = filled / manifest.records.file
    for statement in (
        "CREATE TRIGGER t AFTER INSERT ON records BEGIN DELETE FROM records; END",
        "CREATE VIEW v AS SELECT * FROM records",
        "CREATE TABLE t (x)",
        "DROP INDEX records_by_taxon",
    ):
        sound = path.read_bytes()
        database = sqlite3.connect(path)
        database.execute(statement)
        database.commit()
        database.close()
        entry = FileEntry(path.name, path.stat().st_size, sha256_of(path))
        dataclasses.replace(manifest, records=entry).write(filled)
        with pytest.raises(RejectedModelError, match="expected the tables of a collection"):
            Collection.open(filled)
        path.write_bytes(sound)


def test_records_that_were_forged_into_nonsense_are_found_by_verify(filled):
    manifest = Manifest.read(filled)
    path = filled / manifest.records.file
    database = sqlite3.connect(path)
    database.execute("UPDATE records SET confidence = 7 WHERE id = 3")
    database.execute("DELETE FROM records WHERE id = 4")
    database.commit()
    database.close()
    dataclasses.replace(manifest, records=FileEntry.of(path), count=98).write(filled)
    with Collection.open(filled) as collection:
        faults = {check.file: check.faults for check in collection.verify() if not check.ok}
    assert faults == {path.name: ("1 vectors belong to no record", "record 3 does not hold what it should")}


def test_what_is_no_collection_is_refused(tmp_path, filled):
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for place in ("file", "empty", "nowhere"):
        with pytest.raises(PalynoError, match=r"manifest\.json"):
            Collection.open(tmp_path / place)
    (filled / "manifest.json").write_bytes(b"[" * 100_000)
    with pytest.raises(RejectedModelError, match=r"manifest\.json"):
        Collection.open(filled)


def test_a_snapshot_is_a_collection_of_its_own_and_refuses_damage(filled, tmp_path, unit):
    with Collection.open(filled) as collection:
        before = dict(collection.records())
        assert collection.snapshot(tmp_path / "s") == tmp_path / "s"
        collection.delete(where="kind = 'grain'")
        with pytest.raises(PalynoError, match="empty or not there"):
            collection.snapshot(tmp_path / "s")
        name = names(filled)[0]
        (filled / name).write_bytes((filled / name).read_bytes()[:-1] + b"!")
        with pytest.raises(RejectedModelError, match=name):
            collection.snapshot(tmp_path / "t")
    with pytest.raises(RejectedModelError, match=r"manifest\.json"):
        Collection.open(tmp_path / "t")
    with Collection.open(tmp_path / "s") as copy:
        assert dict(copy.records()) == before
        assert copy.search(unit(60)[5], 1, encoder="pictures")[0].id == 6
        copy.delete([1])
        assert all(check.ok for check in copy.verify())
