"""C compiled at run time: once for each source, kept for the next process, and None where that cannot be."""

import ctypes
import platform
import shutil
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path

import pytest
from palyno.kernels import compiler

if platform.system() != "Linux" or not any(map(shutil.which, compiler.COMPILERS)):
    pytest.skip("needs a C compiler on Linux", allow_module_level=True)


@pytest.fixture(autouse=True)
def kept(tmp_path, monkeypatch):
    """The folder of kept libraries, empty at first; nothing else is remembered."""
    monkeypatch.setenv("PALYNO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compiler, "OPTIONS", ("-shared", "-fPIC"))
    return tmp_path / "cache" / "kernels"


@pytest.fixture
def builds(monkeypatch):
    """The files that the compiler was asked to write."""
    run, asked = subprocess.run, []

    def counted(command, **options):
        asked.extend(path for flag, path in pairwise(command) if flag == "-o")
        return run(command, **options)

    monkeypatch.setattr(subprocess, "run", counted)
    return asked


@pytest.fixture
def main(tmp_path):
    return source(tmp_path / "code", 1)


def source(folder, number, name="main.c"):
    folder.mkdir(exist_ok=True)
    (folder / "number.h").write_text(f"#define NUMBER {number}\n")
    (folder / name).write_text('#include "number.h"\nint number(void) { return NUMBER; }\n')
    return folder / name


def library(main):
    """As in a process of its own."""
    return compiler.library.__wrapped__(main)


def test_the_next_process_loads_what_was_kept(main, kept, builds):
    assert library(main).number() == 1
    (file,) = kept.iterdir()
    again = library(main)
    assert again.number() == 1
    assert again._name == str(file)
    assert len(builds) == 1


def test_a_process_asks_once(main, builds):
    compiler.library.cache_clear()
    assert compiler.library(main) is compiler.library(main)
    compiler.library.cache_clear()
    assert len(builds) == 1


@pytest.mark.parametrize("change", ["source", "header", "options", "compiler", "processor"])
def test_what_a_library_comes_from_gives_it_another_file(change, main, kept, builds, monkeypatch):
    assert library(main).number() == 1
    if change == "source":
        main.write_text("int number(void) { return 2; }\n")
    elif change == "header":
        source(main.parent, 2)
    elif change == "options":
        monkeypatch.setattr(compiler, "OPTIONS", (*compiler.OPTIONS, "-O1"))
    elif change == "compiler":
        monkeypatch.setattr(compiler, "_version", lambda _: b"another")
    else:
        monkeypatch.setattr(compiler, "_processor", lambda: "another")
    assert library(main).number() == (2 if change in ("source", "header") else 1)
    assert len(builds) == 2
    assert len(list(kept.iterdir())) == 2


def test_two_programs_of_one_folder_are_not_taken_for_one_another(main):
    other = main.with_name("other.c")
    other.write_text("int number(void) { return 2; }\n")
    assert [library(path).number() for path in (main, other, main, other)] == [1, 2, 1, 2]


@pytest.mark.parametrize(("file", "folder", "loaded"), [(0o600, 0o700, 2), (0o666, 0o700, 1), (0o600, 0o777, 1)])
def test_a_library_that_others_could_have_written_is_not_loaded(file, folder, loaded, main, tmp_path, kept):
    library(source(tmp_path / "foreign", 2))
    (foreign,) = kept.iterdir()
    name = compiler.binaries.digest(
        main.name,
        compiler._sources(main),
        compiler.OPTIONS,
        compiler._version(next(filter(None, map(shutil.which, compiler.COMPILERS)))),
        compiler._processor(),
    )
    planted = foreign.rename(kept / f"{name}.so")
    planted.chmod(file)
    kept.chmod(folder)
    assert library(main).number() == loaded


def test_a_damaged_library_is_built_again(main, kept, builds):
    library(main)
    (file,) = kept.iterdir()
    file.write_bytes(b"not a library")
    assert library(main).number() == 1
    assert library(main)._name == str(file)
    assert len(builds) == 2


@pytest.mark.parametrize("refused", ["temporary", "kept", "both"])
def test_a_disk_from_which_nothing_may_be_executed(refused, main, kept, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    load, closed = ctypes.CDLL, {"temporary": [temporary], "kept": [kept], "both": [temporary, kept]}[refused]

    def guarded(path):
        if any(folder in Path(path).parents for folder in closed):
            raise OSError(f"{path}: failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", guarded)
    for _ in range(2):
        found = library(main)
        assert (found is None) == (refused == "both")
        assert found is None or found.number() == 1


def test_a_cache_that_cannot_be_written_only_costs_time(main, tmp_path, builds, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PALYNO_CACHE", str(tmp_path / "file"))
    assert [library(main).number() for _ in range(2)] == [1, 1]
    assert len(builds) == 2


def test_what_does_not_compile_is_none_and_not_kept(main, kept):
    main.write_text("int number(void) { return ; }}\n")
    assert library(main) is None
    assert not kept.exists()


def test_without_a_compiler_there_is_none(main, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert library(main) is None
    broken = tmp_path / "gcc"
    broken.write_text("#!/nowhere\n")
    broken.chmod(0o755)
    assert library(main) is None


def test_other_systems_have_none(main, monkeypatch):
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    assert library(main) is None


def test_a_compiler_that_hangs_is_given_up(main, tmp_path, monkeypatch):
    slow = tmp_path / "gcc"
    slow.write_text("#!/bin/sh\nexec /bin/sleep 30\n")
    slow.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(compiler, "SECONDS", 0.2)
    assert library(main) is None
