from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from palyno.data.atomic import replacing, write_bytes, write_text
from palyno.errors import UsageError


def test_text_is_written_as_given_without_leftovers(tmp_path):
    path = write_text(tmp_path / "new" / "a.csv", "Isoëtes\r\nx\n")
    assert path.read_bytes() == "Isoëtes\r\nx\n".encode()
    assert list(path.parent.iterdir()) == [path]


def test_bytes_are_replaced_only_when_allowed(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with pytest.raises(UsageError, match=r"a\.bin.*--overwrite"):
        write_bytes(path, b"new", overwrite=False)
    assert path.read_bytes() == b"old"
    write_bytes(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_folder_is_never_replaced(tmp_path):
    with pytest.raises(UsageError, match="folder"):
        write_text(tmp_path, "x", overwrite=True)


def test_the_old_file_stays_when_writing_fails(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), replacing(path) as file:
        file.write("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_appears_meanwhile_is_not_replaced(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(UsageError), replacing(path, overwrite=False) as file:
        file.write("mine")
        path.write_text("theirs")
    assert path.read_text() == "theirs"


def test_undecodable_file_names_do_not_stop_a_table(tmp_path):
    name = os.fsdecode(b"slide\xff.tif")
    assert write_text(tmp_path / "a.txt", name).read_text() == "slide\\udcff.tif"


def test_files_get_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    path = write_text(tmp_path / "a.txt", "")
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_killing_the_writer_leaves_the_old_file(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")
    code = (
        "import os, signal, sys; from palyno.data.atomic import replacing\n"
        "with replacing(sys.argv[1]) as file:\n"
        "    file.write('new'); file.flush(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert [p.name.startswith(".palyno-") for p in tmp_path.iterdir() if p != path] == [True]
