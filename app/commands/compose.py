"""`palyno compose`: training scenes from reference grains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...errors import UsageError

if TYPE_CHECKING:
    from ...data.compose import Hardness

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(short_help="Make training scenes with exact boxes from reference pictures of single grains.")
@click.argument("reference", type=FOLDER)
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="New folder for the data set."
)
@click.option("--test-reference", type=FOLDER, help="Pictures that are never trained on, in one folder a taxon.")
@click.option("--fields", multiple=True, type=FOLDER, help="Real fields; where they are empty they become backgrounds.")
@click.option(
    "--debris-fields",
    multiple=True,
    type=FOLDER,
    help="Real fields with every grain marked (YOLO); all else is background.",
)
@click.option("--labelled-fields", type=FOLDER, help="Labelled fields (YOLO) whose tiles join the data set.")
@click.option("--labelled-class", default="Oryza", show_default=True, help="Class of their boxes.")
@click.option("--field-splits", type=FILE, help="CSV: file, split.")
@click.option("--train-scenes", default=4000, show_default=True, type=click.IntRange(0))
@click.option("--val-scenes", default=300, show_default=True, type=click.IntRange(0))
@click.option("--test-scenes", default=400, show_default=True, type=click.IntRange(0))
@click.option(
    "--tile-repeats",
    default=2,
    show_default=True,
    type=click.IntRange(1),
    help="Scales at which labelled fields are cut.",
)
@click.option(
    "--unknown", multiple=True, metavar="SPLIT:TAXON,...", help="Taxa labelled unknown; chosen by the seed if none."
)
@click.option("--size", default=640, show_default=True, type=click.IntRange(128), help="Side of a scene in pixels.")
@click.option(
    "--stain-jitter", default=1.0, show_default=True, type=click.FloatRange(0, 1), help="0 keeps the references' stain."
)
@click.option(
    "--microscope",
    default="usual",
    show_default=True,
    type=click.Choice(["usual", "other"]),
    help="other: stain and optics that are never trained on, to score detectors with.",
)
@click.option(
    "--hard-cases",
    multiple=True,
    type=(FOLDER, FILE),
    metavar="SCENES FOUND",
    help="Set grains more often that a detector missed or misnamed: SCENES were composed before, FOUND is what `palyno "
    "val SCENES/data.yaml --split train --save` kept. Repeatable.",
)
@click.option(
    "--hard-most",
    type=click.FloatRange(1),
    help="How many times as often the hardest pictures are set, at most.  [default: 4]",
)
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes.")
@click.option("--masks", is_flag=True, help="Also write where each grain shows: masks/SPLIT.json, in COCO's format.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def compose(
    reference: Path,
    out: Path,
    unknown: tuple[str, ...],
    size: int,
    stain_jitter: float,
    microscope: str,
    workers: int,
    masks: bool,
    hard_cases: tuple[tuple[Path, Path], ...],
    hard_most: float | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Compose a data set from REFERENCE, a folder with one folder of single-grain pictures a taxon.

    Writes images, YOLO labels, COCO annotations and manifest.json, which tells for every grain which picture it was cut
    from and how it was placed. The same arguments give the same scenes.
    """
    import json
    import sys

    from ...data.compose import Recipe, compose_dataset
    from ...data.scene import SceneSettings

    recipe = Recipe(
        reference=reference,
        test_reference=options["test_reference"],
        fields=options["fields"],
        debris_fields=options["debris_fields"],
        labelled_fields=options["labelled_fields"],
        labelled_class=options["labelled_class"],
        field_splits=options["field_splits"],
        scenes={split: options[f"{split}_scenes"] for split in ("train", "val", "test")},
        tile_repeats=options["tile_repeats"],
        unknown=_unknown(unknown),
        seed=options["seed"],
        scene=SceneSettings(size=size, stain_jitter=stain_jitter, microscope=microscope),
        hardness=_hardness(hard_cases, hard_most),
    )
    if sys.stderr.isatty() and not as_json:
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bar:
            task = bar.add_task("composing")
            show = lambda done, total: bar.update(task, completed=done, total=total)  # noqa: E731
            manifest = compose_dataset(recipe, out, workers=workers, masks=masks, progress=show)
    else:
        manifest = compose_dataset(recipe, out, workers=workers, masks=masks)
    if recipe.hardness and not as_json:
        hardest = sorted(recipe.hardness.taxa.items(), key=lambda one: -one[1])[:5]
        named = ", ".join(f"{taxon} {hardness:.2f}" for taxon, hardness in hardest)
        click.echo(f"hard cases: {recipe.hardness.mean:.2f} on average; hardest: {named}", err=True)
    summary = {key: manifest[key] for key in ("images", "grains", "classes", "unknown", "refused", "original_sizes")}
    if as_json:
        click.echo(json.dumps(summary, ensure_ascii=False))
        return
    for split, count in manifest["images"].items():
        click.echo(f"{split}: {count} images, {manifest['grains'][split]} grains", err=True)
    if options["test_scenes"] and not options["test_reference"]:
        click.echo("no test scenes: --test-reference has the pictures for them, which are never trained on", err=True)
    # A list that was left behind makes other scenes, and nothing else would tell.
    click.echo(
        f"original sizes of {manifest['original_sizes']} pictures are known from manifest.csv"
        if manifest["original_sizes"]
        else "no manifest.csv with original sizes: a taxon's grains are as large as its pictures are now; where these "
        "were shrunk to one side, large taxa come out too small",
        err=True,
    )
    for note in manifest["refused"]:
        click.echo(f"left out: {note}", err=True)
    click.echo(f"{len(manifest['classes'])} classes; written to {out}", err=True)


def _hardness(cases: tuple[tuple[Path, Path], ...], most: float | None) -> Hardness | None:
    """How hard the training pictures were for the detectors whose predictions are given."""
    if not cases:
        if most is not None:
            raise UsageError("--hard-most: expected --hard-cases with it, got none; name one, or leave it out")
        return None
    from ...data.compose.hardness import MOST, measure
    from ...vision.hard_cases import read_sightings

    seen = [read_sightings(scenes, found) for scenes, found in cases]
    sightings = [sighting for of_one, _ in seen for sighting in of_one]
    return measure(sightings, most=MOST if most is None else most, seen_by=[sha256 for _, sha256 in seen])


def _unknown(values: tuple[str, ...]) -> dict[str, tuple[str, ...]] | None:
    if not values:
        return None
    chosen: dict[str, tuple[str, ...]] = {"train": (), "val": (), "test": ()}
    for value in values:
        split, _, taxa = value.partition(":")
        if split not in chosen or not taxa:
            raise click.BadParameter(
                f"expected SPLIT:TAXON,... with split train, val or test, got {value!r}", param_hint="--unknown"
            )
        chosen[split] = tuple(t.strip() for t in taxa.split(","))
    return chosen
