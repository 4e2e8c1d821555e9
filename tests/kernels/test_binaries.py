"""The folder of compiled code: whole files that only this user can have written, and no trouble where there is none."""

import os
import stat
import threading
from pathlib import Path

import pytest
from palyno.kernels import binaries


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PALYNO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels"


def test_what_is_kept_is_found_for_its_user_alone(folder):
    umask = os.umask(0o002)
    try:
        binaries.keep("a.so", b"code")
    finally:
        os.umask(umask)
    path = binaries.kept("a.so")
    assert path == folder / "a.so"
    assert path.read_bytes() == b"code"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert binaries.kept("b.so") is None


def test_a_name_takes_the_newest_file_and_nothing_else_is_left(folder):
    binaries.keep("a.so", b"old")
    with binaries.kept("a.so").open("rb") as held:
        binaries.keep("a.so", b"new")
        # A process that has the old one loaded goes on with it.
        assert held.read() == b"old"
    assert binaries.kept("a.so").read_bytes() == b"new"
    assert [path.name for path in folder.iterdir()] == ["a.so"]


@pytest.mark.parametrize("mode", [0o620, 0o602, 0o666])
def test_a_file_that_others_may_write_is_not_found(folder, mode):
    binaries.keep("a.so", b"code")
    (folder / "a.so").chmod(mode)
    assert binaries.kept("a.so") is None
    binaries.keep("a.so", b"code")
    assert binaries.kept("a.so") is not None


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o1777])
def test_nothing_is_found_where_others_may_write(folder, mode):
    binaries.keep("a.so", b"code")
    folder.chmod(mode)
    assert binaries.kept("a.so") is None


@pytest.mark.parametrize("whose", ["file", "folder"])
def test_what_belongs_to_someone_else_is_not_found(folder, whose, monkeypatch):
    binaries.keep("a.so", b"code")
    me = os.getuid()
    if me == 0:
        os.chown(folder / "a.so" if whose == "file" else folder, 12345, -1)
    else:
        monkeypatch.setattr(os, "getuid", lambda: me + 1)
    assert binaries.kept("a.so") is None


def test_a_folder_under_the_name_is_not_a_file(folder):
    (folder / "a.so").mkdir(parents=True, mode=0o700)
    assert binaries.kept("a.so") is None
    binaries.keep("a.so", b"code")
    assert [path.name for path in folder.iterdir()] == ["a.so"]


@pytest.mark.parametrize("where", ["a file", "below a file", "no home"])
def test_a_folder_that_cannot_be_is_no_error(where, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    if where == "no home":

        def home():
            raise RuntimeError("Could not determine home directory.")

        monkeypatch.delenv("PALYNO_CACHE", raising=False)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", home)
    else:
        monkeypatch.setenv("PALYNO_CACHE", str(tmp_path / "file" / ("deeper" if where == "below a file" else "")))
    binaries.keep("a.so", b"code")
    assert binaries.kept("a.so") is None


def test_a_disk_that_is_full_leaves_nothing_behind(folder, monkeypatch):
    def full(_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    binaries.keep("a.so", b"code")
    assert list(folder.iterdir()) == []


def test_who_keeps_the_same_at_the_same_time_leaves_one_whole_file(folder):
    content = [bytes([number]) * 100_000 for number in range(4)]
    writers = [threading.Thread(target=binaries.keep, args=("a.so", one)) for one in content]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert binaries.kept("a.so").read_bytes() in content
    assert [path.name for path in folder.iterdir()] == ["a.so"]


def test_the_folder_is_that_of_the_package(tmp_path, monkeypatch):
    from palyno.offline import cache_dir

    for variables in (
        {"PALYNO_CACHE": str(tmp_path / "a")},
        {"XDG_CACHE_HOME": str(tmp_path / "b")},
        {"HOME": str(tmp_path / "c")},
    ):
        for name in ("PALYNO_CACHE", "XDG_CACHE_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        binaries.keep("a.so", b"code")
        assert binaries.kept("a.so") == cache_dir() / "kernels" / "a.so"


def test_a_digest_tells_all_parts_apart():
    digests = {
        binaries.digest(*parts) for parts in [(), ("",), ("a", "b"), ("ab",), (b"ab",), ("b", "a"), (("a", "b"),)]
    }
    assert len(digests) == 7
    assert binaries.digest("a", 1) == binaries.digest("a", 1)
    assert all(len(digest) == 64 for digest in digests)
