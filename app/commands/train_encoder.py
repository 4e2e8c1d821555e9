"""`palyno train-encoder`: train the encoders that search compares grains, and words with grains, by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from . import options as shared


@click.command("train-encoder", short_help="Train an encoder of grains, or of words for grains.")
@click.argument("pictures", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Folder of the run.")
@click.option(
    "--of",
    "what",
    default="grains",
    show_default=True,
    type=click.Choice(["grains", "words"]),
    help="What it reads: pictures of grains, or words that find them in the space of --encoder.",
)
@click.option("--name", help="Name of the weights.  [default: grain-encoder or grain-words]")
@click.option("--encoder", default="grain-encoder", show_default=True, help="With --of words: of the grains.")
@click.option("--without", "left_out", multiple=True, metavar="TAXON", help="Leave a folder out; may be repeated.")
@click.option("--steps", type=click.IntRange(1), help="Batches.  [default: 6000 of grains, 1000 of words]")
@click.option("--minutes", type=shared.Finite(0, min_open=True), help="Of grains: time budget; ends it earlier.")
@click.option("--batch", type=click.IntRange(2), help="Pictures a batch.  [default: 292 of grains, 146 of words]")
@click.option("--per-taxon", type=click.IntRange(2), help="Of grains: pictures of a taxon in a batch.  [default: 4]")
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
    encoder: str,
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
    """Train on PICTURES, one folder a taxon with pictures of single grains.

    The result is OUT/NAME.safetensors. Collections are of the encoder that their grains were put in with.
    """
    from ...errors import UsageError
    from ..encoder_training import cut_folder

    if what == "words" and (minutes or held_out or per_taxon or resume):
        raise UsageError("--minutes, --per-taxon, --held-out and --resume are for --of grains, got --of words")

    def told(done: int, of: int) -> None:
        if not quiet and (done % 200 == 0 or done == of):
            click.echo(f"{done} of {of} pictures cut", err=True)

    grains = cut_folder(
        pictures,
        without=left_out,
        on_picture=told,
        on_skip=lambda file, reason: click.echo(f" skipped  {file}: {reason}", err=True),
    )
    given = {"name": name, "steps": steps, "batch": batch, "per_taxon": per_taxon}
    common: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if what == "words":
        from ..encoder_training import train_words

        path = train_words(grains, out, encoder=encoder, device=device, seed=seed, **common)
    else:
        from ...retrieval.encoders.image.train import EncoderSettings
        from ...retrieval.encoders.image.train import train_encoder as run

        settings = EncoderSettings(
            out=out,
            seconds=None if minutes is None else 60 * minutes,
            held_out=held_out,
            trait_weight=0.3,
            device=device,
            seed=seed,
            **common,
        )
        path = run(grains, settings, resume=resume)
    click.echo(f"weights: {path}", err=True)
