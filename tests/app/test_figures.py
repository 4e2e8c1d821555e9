"""Options and files of figures: refused before anything is measured; stdout has one JSON document, or what is shown."""

from __future__ import annotations

import json

import click
import pytest
from click.testing import CliRunner
from palyno.app.cli import cli
from palyno.app.commands.figures import keeps_figures
from palyno.errors import UsageError

FIGURES = {"taxon": "Quercus ílex", "n": 3}


def command(measured, **options):
    @click.command()
    @click.option("--times", default=1)
    @keeps_figures(**options)
    def measure(times, figures):
        with figures.measuring():
            print("a library talks")
            measured.append(times)
        figures.give(FIGURES, lambda document: click.echo(f"{document['n']} grains"))

    return measure


@pytest.mark.parametrize("as_json", [False, True])
def test_the_file_holds_what_is_printed_as_json_and_stdout_nothing_else(tmp_path, as_json):
    out = tmp_path / "figures.json"
    done = CliRunner().invoke(command([]), ["--out", str(out), *["--json"] * as_json])
    assert done.exit_code == 0
    assert done.stdout == (json.dumps(FIGURES, ensure_ascii=False) if as_json else "3 grains") + "\n"
    assert done.stderr == "a library talks\n"
    assert out.read_text(encoding="utf-8") == json.dumps(FIGURES, ensure_ascii=False, indent=1) + "\n"


def test_without_a_file_figures_are_only_shown(tmp_path):
    measured = []
    assert CliRunner().invoke(command(measured), ["--times", "2"]).stdout == "3 grains\n"
    assert measured == [2]


def test_a_file_that_is_there_is_refused_before_anything_is_measured(tmp_path):
    out, measured = tmp_path / "figures.json", []
    out.write_text("mine")
    done = CliRunner().invoke(command(measured), ["--out", str(out)])
    assert isinstance(done.exception, UsageError) and "--overwrite" in str(done.exception)
    assert (out.read_text(), measured) == ("mine", [])
    assert CliRunner().invoke(command(measured), ["--out", str(out), "--overwrite"]).exit_code == 0
    assert json.loads(out.read_text(encoding="utf-8")) == FIGURES


def test_where_a_file_is_required_there_is_no_json(tmp_path):
    made = command([], required=True)
    assert {p.name for p in made.params} == {"times", "out", "overwrite"}
    assert "Missing option '--out'" in CliRunner().invoke(made, []).output
    assert CliRunner().invoke(made, ["--out", str(tmp_path / "a.json")]).exit_code == 0


def test_every_command_that_measures_has_the_options():
    def commands(group, context):
        for name in group.list_commands(context):
            one = group.get_command(context, name)
            yield from commands(one, context) if isinstance(one, click.Group) else [(name, one)]

    context = click.Context(cli)
    found = {
        name: {p.name for p in one.params} & {"out", "overwrite", "as_json"}
        for name, one in commands(cli.get_command(context, "bench"), context)
    }
    every = {"out", "overwrite", "as_json"}
    only_shown = {"compose": {"as_json"}, "train": set(), "render": set()}
    kept = {"score": every - {"as_json"}, "latency": every - {"as_json"}}
    assert found == dict.fromkeys(found, every) | only_shown | kept
