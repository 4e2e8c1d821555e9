"""`palyno train-encoder`: train what search compares grains by, and words with grains."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options as shared

if TYPE_CHECKING:
    from ...retrieval.encoders.image.grains import GrainSet

# Options that only some of what can be trained takes.
_ONLY = {
    "minutes": ("grains", "regions"),
    "per_taxon": ("grains", "regions"),
    "held_out": ("grains",),
    "resume": ("grains",),
    "encoder": ("words",),
    "detector": ("regions",),
    "queries": ("regions",),
    "steps": ("grains", "regions", "words"),
    "batch": ("grains", "regions", "words"),
}


@click.command("train-encoder", short_help="Train an encoder of grains, or of words for grains.")
@click.argument("pictures", type=click.Path(exists=True, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the run.")
@click.option(
    "--of",
    "what",
    default="grains",
    show_default=True,
    type=click.Choice(["grains", "regions", "words", "traits"]),
    help="What it reads: pictures of grains; the maps of --detector where it finds grains; words that find grains "
    "in the space of --encoder; or traits of grains, which words ask for too.",
)
@click.option(
    "--name", help="Name of the weights.  [default: grain-encoder, grain-regions, grain-words or grain-traits]"
)
@click.option("--encoder", help="With --of words: of the grains.  [default: grain-encoder]")
@click.option("--detector", help="With --of regions: name or weights file.  [default: hieraedge-n]")
@click.option(
    "--queries",
    type=click.Path(exists=True, path_type=Path),
    help="With --of regions: pictures, as PICTURES, that are looked up among these when it is trained.",
)
@click.option(
    "--keep",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the grains that were cut to this .npz, which PICTURES can be the next time.",
)
@click.option("--without", "left_out", multiple=True, metavar="TAXON", help="Leave a folder out; may be repeated.")
@click.option(
    "--steps", type=click.IntRange(1), help="Batches.  [default: 6000 of grains, 3000 of regions, 1000 of words]"
)
@click.option(
    "--minutes",
    type=shared.Finite(0, min_open=True),
    help="Of grains or regions: time budget of the training itself, without cutting; ends it earlier.",
)
@click.option("--batch", type=click.IntRange(2), help="Pictures a batch.  [default: 292, 146 of words]")
@click.option(
    "--per-taxon", type=click.IntRange(2), help="Of grains or regions: pictures of a taxon in a batch.  [default: 4]"
)
@click.option("--held-out", default=0, show_default=True, type=click.IntRange(0), help="Of grains: so many a taxon.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--resume", is_flag=True, help="Of grains: go on with your own unfinished run in --out.")
@shared.quiet
def train_encoder(
    pictures: Path,
    out: Path,
    what: str,
    name: str | None,
    encoder: str | None,
    detector: str | None,
    queries: Path | None,
    keep: Path | None,
    left_out: tuple[str, ...],
    steps: int | None,
    minutes: float | None,
    batch: int | None,
    per_taxon: int | None,
    held_out: int,
    device: str,
    seed: int,
    resume: bool,
    quiet: bool,
) -> None:
    """Train on PICTURES, one folder a taxon with pictures of single grains, or a file that --keep wrote.

    The result is OUT/NAME.safetensors. Collections are of the encoder that their grains were put in with. Weights of
    regions are for one detector: train them again when the detector changes.
    """
    from ...errors import UsageError

    given: dict[str, object] = {"minutes": minutes, "per_taxon": per_taxon, "held_out": held_out, "resume": resume}
    given |= {"encoder": encoder, "detector": detector, "queries": queries, "steps": steps, "batch": batch}
    for option, value in given.items():
        if value and what not in _ONLY[option]:
            of = " or ".join(f"--of {kind}" for kind in _ONLY[option])
            raise UsageError(f"--{option.replace('_', '-')} is for {of}, got --of {what}")
    grains = _grains(pictures, left_out, quiet)
    if keep is not None:
        keep.parent.mkdir(parents=True, exist_ok=True)
        grains.save(keep)
    chosen = {"name": name, "steps": steps, "batch": batch, "per_taxon": per_taxon}
    common: dict[str, Any] = {k: v for k, v in chosen.items() if v is not None} | {"device": device, "seed": seed}
    seconds = None if minutes is None else 60 * minutes
    if what == "words":
        from ..encoder_training import train_words

        path = train_words(grains, out, encoder=encoder or "grain-encoder", **common)
    elif what == "traits":
        from ..encoder_training import train_traits

        path = train_traits(grains, out, **({} if name is None else {"name": name}))
    elif what == "regions":
        from ...retrieval.encoders.image.regions_train import RegionSettings, train_regions
        from ...retrieval.encoders.image.weights import read_header

        asked = None if queries is None else _grains(queries, left_out, quiet)
        regions = RegionSettings(out=out, detector=detector or "hieraedge-n", seconds=seconds, **common)
        path = train_regions(grains, regions, asked)
        if asked is not None:
            found = read_header(path, "palyno-region-encoder-1").training["recall_at_1"]
            click.echo(f"Recall@1 of {found['queries']}: {found['grey']} grey, {found['colour']} in colour", err=True)
    else:
        from ...retrieval.encoders.image.train import EncoderSettings
        from ...retrieval.encoders.image.train import train_encoder as run

        settings = EncoderSettings(out=out, seconds=seconds, held_out=held_out, trait_weight=0.3, **common)
        path = run(grains, settings, resume=resume)
    click.echo(f"weights: {path}", err=True)


def _grains(pictures: Path, without: tuple[str, ...], quiet: bool) -> GrainSet:
    """The grains of a folder of pictures, or of a file of grains that are cut already."""
    from ...retrieval.encoders.image.grains import GrainSet
    from ..encoder_training import cut_folder

    if pictures.is_file():
        grains = GrainSet.load(pictures)
        return grains.select([taxon not in without for taxon in grains.taxa]) if without else grains

    def told(done: int, of: int) -> None:
        if not quiet and (done % 200 == 0 or done == of):
            click.echo(f"{done} of {of} pictures cut", err=True)

    return cut_folder(
        pictures,
        without=without,
        on_picture=told,
        on_skip=lambda file, reason: click.echo(f" skipped  {file}: {reason}", err=True),
    )
