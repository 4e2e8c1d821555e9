"""The page on search: made by one command of committed figures, and of nothing else."""

import json
from pathlib import Path

import palyno
import pytest
from click.testing import CliRunner
from palyno import InputError, UsageError
from palyno.app.cli import cli
from palyno.app.retrieval_page import fill, sections

ROOT = Path(palyno.__file__).parent
RESULTS, PAGE = ROOT / "docs" / "results", ROOT / "docs" / "retrieval.md"


def test_one_command_fills_the_page_with_what_it_has(tmp_path):
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text(encoding="utf-8").replace("| MiniLM |", "| changed |"), encoding="utf-8")
    done = CliRunner().invoke(cli, ["bench", "retrieval", "--render", str(RESULTS), "--page", str(copy), "--json"])
    assert json.loads(done.output)["places"] == ["text-test", "text-atlas", "regions", "regions-grey", "matching"]
    assert copy.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def test_only_the_places_of_what_is_given_change(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- bench:matching -->\nold\n<!-- /bench:matching -->\nb\n", encoding="utf-8")
    tables = sections([RESULTS / "matching.json"])["matching"]
    assert fill([RESULTS / "matching.json"], page) == ["matching"]
    assert page.read_text(encoding="utf-8") == (f"a\n<!-- bench:matching -->\n{tables}\n<!-- /bench:matching -->\nb\n")
    with pytest.raises(UsageError, match="expected places such as <!-- bench:regions -->"):
        fill([RESULTS / "regions.json"], page)


def test_what_is_no_figures_of_search_is_refused_by_name(tmp_path):
    for name, content in (("x.json", '{"format": "other"}'), ("y.json", "no"), ("z.json", "[]")):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=rf"{name}: expected figures of `palyno bench retrieval`"):
            sections([tmp_path / name])
    with pytest.raises(InputError, match="expected figures of"):
        sections([tmp_path])
    with pytest.raises(InputError, match="expected one document for bench:regions, got another"):
        sections([RESULTS, RESULTS / "regions.json"])
