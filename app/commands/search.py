"""`palyno search`: the grains and texts of a collection that are nearest to words or a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from . import options as shared

if TYPE_CHECKING:
    from ...retrieval.collection import Hit


@click.command()
@click.argument("collection", metavar="COLLECTION", type=click.Path(path_type=Path))
@click.argument("words", required=False)
@click.option(
    "--image",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A picture of one grain, in place of words.",
)
@click.option("-k", "k", default=10, show_default=True, type=click.IntRange(min=1), help="At most so many answers.")
@click.option(
    "--where",
    metavar="EXPR",
    help="Only records that pass, such as \"taxon = 'Betula' and width_um > 20 and slide like 'A%'\".",
)
@click.option("--space", metavar="ENCODER_ID", help="Search only the vectors of this encoder.")
@click.option("--exact", is_flag=True, help="Compare every vector, whatever index there is.")
@shared.as_json
def search(
    collection: Path,
    words: str | None,
    image: Path | None,
    k: int,
    where: str | None,
    space: str | None,
    exact: bool,
    as_json: bool,
) -> None:
    """Find grains and texts in a collection, by words or by a picture.

    Vectors of different encoders do not compare, so each has a list of its own.
    """
    from ...errors import RejectedModelError, UsageError
    from ...retrieval.collection import Collection

    if (words is None) == (image is None):
        raise UsageError("expected either words or --image, to search by")
    modality: Literal["text", "image"] = "text" if image is None else "image"
    with Collection.open(collection) as opened:
        encoders = [one for one in opened.encoders(modality) if space in (None, one.encoder_id)]
        if not encoders:
            of = f" of {space}" if space else ""
            raise RejectedModelError(
                f"{collection}: expected vectors{of} that {modality} can be compared with; it has "
                f"{', '.join(opened.spaces) or 'none, as it is empty'}"
            )
        answers = {
            one.encoder_id: opened.search(words if image is None else image, k, where, encoder=one, exact=exact)
            for one in encoders
        }
        if as_json:
            asked = {"words": words} if image is None else {"image": str(image)}
            spaces = [{"encoder_id": name, "hits": [_row(hit) for hit in hits]} for name, hits in answers.items()]
            click.echo(json.dumps({**asked, "k": k, "where": where, "spaces": spaces}, ensure_ascii=False))
        else:
            for name, hits in answers.items():
                _show(name, hits)


def _row(hit: Hit) -> dict[str, Any]:
    record = {name: value for name, value in vars(hit.record).items() if value is not None}
    return {"id": hit.id, "score": round(hit.score, 6), **record, "reasons": hit.reasons}


def _show(name: str, hits: list[Hit]) -> None:
    """One table a space: score, what it is, where it is, why."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if not hits:
        console.print(Text(f"nothing in {name} passes"))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    columns = [("score", "right"), ("id", "right"), ("what", "left"), ("where", "left")]
    # The last reason says how the space was searched, the same for all.
    own = any(len(hit.reasons) > 1 for hit in hits)
    for column, justify in [*columns, ("why", "left")] if own else columns:
        table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for hit in hits:
        record = hit.record
        what = Text.assemble(
            (record.taxon or "", "italic"), "\n" if record.taxon and record.text else "", _short(record.text)
        )
        size = f"\n{record.width_um:.1f} x {record.height_um:.1f} µm" if record.width_um and record.height_um else ""
        corner = f"\nat {record.box[0]:.0f}, {record.box[1]:.0f}" if record.box else ""
        row = [Text(f"{hit.score:.3f}"), Text(str(hit.id)), what, Text(f"{record.slide or ''}{corner}{size}")]
        table.add_row(*row, *[Text("; ".join(hit.reasons[:-1]))][:own])
    console.print(table)
    console.print(Text(hits[0].reasons[-1], style="dim"), soft_wrap=True)


def _short(text: str | None) -> str:
    return "" if text is None else text if len(text) <= 160 else f"{text[:159].rstrip()}…"
