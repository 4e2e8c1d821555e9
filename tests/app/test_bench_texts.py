from __future__ import annotations

import json

from click.testing import CliRunner
from palyno.app.bench_texts import QUERIES
from palyno.app.cli import cli


def test_what_is_done_with_many_texts_is_timed_and_kept(tmp_path):
    arguments = ["bench", "texts", "--texts", "60", "--folder", str(tmp_path), "--out", str(tmp_path / "out.json")]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    figures = json.loads((tmp_path / "out.json").read_text())
    assert figures["texts"] == 60 and figures["bytes"]["records"] > figures["bytes"]["text"] > 60 * 100
    searches = [f"search: {name}, {k} best" for name in QUERIES for k in ("10", "1,000")]
    assert [what for what in figures["times"] if what.startswith("search")] == searches
    assert all(one["wall_s"] >= 0 and one["cpu_s"] >= 0 for one in figures["times"].values())
    assert f"| {searches[0]} | " in done.output and "| change one text | " in done.output
    # Nothing is left where it was made.
    assert [file.name for file in tmp_path.iterdir()] == ["out.json"]
