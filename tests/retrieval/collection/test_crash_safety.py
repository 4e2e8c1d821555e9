"""A collection outlives its writer, however that dies, and two writers do not meet."""

from __future__ import annotations

import errno
import importlib.util
import multiprocessing
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from palyno.data.lock import locked
from palyno.errors import UsageError
from palyno.retrieval.collection import Collection, generation, store
from palyno.retrieval.collection.manifest import Manifest
from palyno.retrieval.collection.records import Records

WRITER = Path(__file__).with_name("writer.py")


@pytest.fixture(scope="module")
def vector_of():
    spec = importlib.util.spec_from_file_location("writer", WRITER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.vector_of


def kill_while_writing(folder, vector_of, times):
    """Starts a writer, kills it at a random moment, and looks at what it leaves; again and again."""
    Collection.create(folder, exact_below=30).close()
    rng, told = random.Random(times), (1, 0, 0)
    for seed in range(times):
        command = [sys.executable, str(WRITER), str(folder), str(seed)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout.readline() == "ready\n"
            lines = [writer.stdout.readline() for _ in range(rng.randint(0, 3))]
            time.sleep(rng.uniform(0, 0.05))
            writer.kill()
            # A line that was cut short is left out.
            lines += [line for line in writer.stdout.read().splitlines(keepends=True) if line.endswith("\n")]
        if lines:
            told = tuple(int(number) for number in lines[-1].split())
        with Collection.open(folder) as left:
            assert [check for check in left.verify() if not check.ok] == []
            ids = [i for i, _ in left.records()]
            # What was said to be committed is there; at most one commit more was not told any more.
            assert left.info()["generation"] >= told[0]
            assert not ids or max(ids) >= told[2]
            if ids:
                assert np.array_equal(left.vectors(ids), [vector_of(i) for i in ids])
                assert left.search(vector_of(ids[0]), 1, encoder="e")[0].id == ids[0]
            assert left.count("taxon is null") == 0
            told = (left.info()["generation"], len(left), max(ids, default=0))
    assert told[0] > times / 2


def test_the_last_generation_opens_after_kill_9(tmp_path, vector_of):
    kill_while_writing(tmp_path / "c", vector_of, 4)


@pytest.mark.slow
def test_the_last_generation_opens_after_kill_9_a_hundred_times(tmp_path, vector_of):
    kill_while_writing(tmp_path / "c", vector_of, 100)


STEPS = [
    (store.VectorStore, "append"),
    (store.VectorStore, "sync"),
    (store.VectorStore, "create"),
    (Records, "copy"),
    (Records, "link"),
    (Records, "sync"),
    (generation.FileEntry, "of"),
    (generation.Manifest, "write"),
    (generation, "sync_folder"),
    (generation.Generation, "sweep"),
]


def _die_at(folder, place, name, after):
    """Changes a collection in a process that dies by SIGKILL right before, or after, a step of the commit."""
    original = getattr(place, name)

    def step(*arguments, **options):
        if after:
            original(*arguments, **options)
        os.kill(os.getpid(), 9)

    setattr(place, name, step)
    with Collection.open(folder) as collection:
        collection.compact()
        with collection.batch():
            collection.delete([1])
            collection.embed([2], [[0.6] * 2 + [0.0] * 13 + [np.sqrt(1 - 0.72)]], "pictures")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("place", "name"), STEPS, ids=[name for _, name in STEPS])
def test_a_writer_killed_at_each_step_leaves_one_generation_or_the_next(filled, place, name, after):
    with Collection.open(filled) as collection:
        records = dict(collection.records())
        vectors = collection.vectors(list(range(1, 7)), "pictures")
        number = collection.info()["generation"]
    process = multiprocessing.get_context("fork").Process(target=_die_at, args=(filled, place, name, after))
    process.start()
    process.join(60)
    assert process.exitcode == -9
    with Collection.open(filled) as collection:
        assert [check for check in collection.verify() if not check.ok] == []
        # Compacting, the first commit, changes no answer; the second one did not come to its end.
        assert collection.info()["generation"] in (number, number + 1)
        assert dict(collection.records()) == records
        assert np.array_equal(collection.vectors(list(range(1, 7)), "pictures"), vectors)
        collection.delete([1])
        assert [check for check in collection.verify() if not check.ok] == []
        # The next writer leaves no file but those of the generation it found, the one before, and its own.
        kept = {"manifest.json", ".palyno", *Manifest.read(filled).files, *Manifest.read(filled).previous}
        collection.delete([2])
        assert {file.name for file in filled.iterdir()} == kept | set(Manifest.read(filled).files)


def test_a_full_disk_leaves_the_last_generation(filled, monkeypatch):
    def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))

    with Collection.open(filled) as collection:
        before, vector = dict(collection.records()), collection.vectors([2], "pictures")
        monkeypatch.setattr(Records, "sync", full)
        with pytest.raises(OSError, match="No space left"):
            collection.delete([1, 2, 3])
        monkeypatch.undo()
        assert dict(collection.records()) == before
        assert collection.search(vector[0], 1, encoder="pictures")[0].id == 2
        assert collection.delete([1, 2, 3]) == 3
    with Collection.open(filled) as collection:
        assert dict(collection.records()) == {i: r for i, r in before.items() if i > 3}


def test_the_second_writer_is_refused_and_the_first_one_goes_on(filled, unit):
    with Collection.open(filled) as first, Collection.open(filled) as second, first.batch():
        first.delete([1])
        with pytest.raises(UsageError, match=f"is being written by process {os.getpid()}"):
            second.delete([2])
        # Readers are not kept waiting.
        assert second.count() == 99
        with Collection.open(filled) as third:
            assert third.count() == 99
        first.delete([3])
    with Collection.open(filled) as collection:
        assert collection.count("id in (1, 2, 3)") == 1


def test_a_writer_takes_over_what_was_written_since_it_opened(filled):
    with Collection.open(filled) as first, Collection.open(filled) as second:
        first.delete([1])
        assert second.count() == 99
        second.delete([2])
        assert second.count("id < 4") == 1
        assert first.refresh() and first.count() == 97


def _delete(folder, ids):
    with Collection.open(folder) as collection:
        for i in ids:
            while True:
                try:
                    collection.delete([i])
                    break
                except UsageError as error:
                    assert "is being written" in str(error)
                    time.sleep(0.005)


def test_writers_that_wait_for_each_other_lose_nothing(filled):
    context = multiprocessing.get_context("fork")
    ranges = (range(1, 7), range(8, 14), range(14, 20))
    writers = [context.Process(target=_delete, args=(filled, ids)) for ids in ranges]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(100)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    with Collection.open(filled) as collection:
        assert [i for i, _ in collection.records("id <= 20")] == [20]
        assert [check for check in collection.verify() if not check.ok] == []


def test_creating_twice_is_refused(filled, tmp_path):
    with pytest.raises(UsageError, match="empty or not there"):
        Collection.create(filled)
    with locked(tmp_path / "c" / ".palyno" / "lock"), pytest.raises(UsageError, match="is being written"):
        Collection.create(tmp_path / "c")
    Collection.create(tmp_path / "c").close()
