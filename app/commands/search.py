"""`palyno search`: the grains and texts of a collection that answer words or a picture best."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options as shared

if TYPE_CHECKING:
    from rich.console import Console

    from ...retrieval.collection import Collection, Hit
    from ..query_picture import QueryPicture

_KINDS = {"grains": "grain", "texts": "text"}

# Columns of a window from which on all of a table stand side by side.
_WIDE = 100


@click.command()
@click.argument("collection", metavar="COLLECTION", type=click.Path(path_type=Path))
@click.argument("words", required=False)
@click.option(
    "--image",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A picture of one grain, in place of words; of a field, a grain in its middle is taken, and told.",
)
@click.option(
    "--at",
    nargs=2,
    type=shared.Finite(0),
    metavar="X Y",
    help="With --image: the grain that lies here, in pixels from the picture's top left corner.",
)
@click.option(
    "--in",
    "within",
    type=click.Choice(list(_KINDS)),
    help="What to search for. Words search for both, each in a list of its own; a picture searches for grains.",
)
@click.option("-k", "k", default=10, show_default=True, type=click.IntRange(min=1), help="At most so many answers.")
@click.option(
    "--where",
    metavar="EXPR",
    help="Only records that pass, such as \"taxon = 'Betula' and width_um > 20 and slide like 'A%'\".",
)
@click.option(
    "--by",
    type=click.Choice(["words", "vectors"]),
    help="Find texts by their words alone, or by what they mean alone; left out, by both.",
)
@click.option("--space", metavar="ENCODER_ID", help="Search only the vectors of this encoder.")
@click.option("--exact", is_flag=True, help="Compare every vector, whatever index there is.")
@shared.as_json
def search(
    collection: Path,
    words: str | None,
    image: Path | None,
    at: tuple[float, float] | None,
    within: str | None,
    k: int,
    where: str | None,
    by: str | None,
    space: str | None,
    exact: bool,
    as_json: bool,
) -> None:
    """Find grains and texts in a collection, by words or by a picture.

    Texts are found by their words, by the field's terms in English, German, Spanish and French, and by what they mean;
    grains by what they look like. Scores of grains and of texts do not compare, so each have a list of their own.
    """
    from ...errors import NothingToDoError, PalynoError, UsageError
    from ...retrieval.collection import Collection

    if (words is None) == (image is None):
        raise UsageError("expected either words or --image, to search by")
    if at is not None and image is None:
        raise UsageError("--at is a place in a picture: expected --image with it, got none")
    with Collection.open(collection) as opened:
        if not len(opened):
            raise NothingToDoError(f"{collection}: expected grains or texts, got none; palyno index add puts some in")
        picture = None if image is None else _picture(image, at)
        answers: dict[str, list[Hit]] = {}
        refused: dict[str, PalynoError] = {}
        for name in _names(opened, within, by, image, where, space):
            try:
                answers[name] = opened.search(
                    words if picture is None else picture.pixels,
                    k,
                    where,
                    kind=_KINDS[name],  # type: ignore[arg-type]
                    by=by,  # type: ignore[arg-type]
                    encoder=space,
                    exact=exact,
                )
            except PalynoError as error:
                refused[name] = error
        passing = opened.kinds(where)
        if refused and not answers:
            raise next(iter(refused.values()))
    if as_json:
        asked = {"words": words} if picture is None else {"image": str(image), **picture.document()}
        lists = [{"in": name, **_how(hits), "hits": [_row(hit) for hit in hits]} for name, hits in answers.items()]
        left_out = {name: str(error) for name, error in refused.items()}
        told = {**asked, "k": k, "where": where, "lists": lists, "not_searched": left_out}
        click.echo(json.dumps(told, ensure_ascii=False))
        return
    if not answers:
        click.echo("no record passes the filter")
    if picture is not None and picture.note:
        click.echo(f"    note  {picture.note}", err=True)
    nothing = {name: _why_nothing(name, _KINDS[name] in passing, by) for name, hits in answers.items() if not hits}
    _show(answers, nothing)
    for name, why in refused.items():
        click.echo(f"{name} were not searched: {why}", err=True)


def _picture(path: Path, at: tuple[float, float] | None) -> QueryPicture:
    """What of a picture is searched with."""
    from ...vision.detector import load
    from ..query_picture import query_picture

    with contextlib.redirect_stdout(sys.stderr):
        # PyTorch runs the encoder, too; to prepare another runtime takes longer than to read one picture.
        return query_picture(path, load(runtime="torch"), at)


def _names(
    opened: Collection, within: str | None, by: str | None, image: Path | None, where: str | None, space: str | None
) -> list[str]:
    """What to search in: what was asked for, else what there is."""
    if within is not None:
        return [within]
    if image is not None:
        return ["grains"]
    if by == "words":
        return ["texts"]
    kinds = opened.kinds(where, encoder=space)
    return [name for name, kind in _KINDS.items() if kind in kinds]


def _how(hits: list[Hit]) -> dict[str, Any]:
    return {"encoder_id": hits[0].encoder_id, "how": hits[0].reasons[-1], "guessed": hits[0].guessed} if hits else {}


def _row(hit: Hit) -> dict[str, Any]:
    record = {name: value for name, value in vars(hit.record).items() if value is not None}
    places = {"words": hit.words, "vectors": hit.vectors}
    parts = {name: {"rank": at.rank, "score": round(at.score, 6)} for name, at in places.items() if at}
    return {"id": hit.id, "score": round(hit.score, 6), **parts, **record, "reasons": hit.reasons}


def _why_nothing(name: str, passes: bool, by: str | None) -> str:
    """Why no record of a kind answers."""
    if not passes:
        return "none passes the filter; what is not known, such as a size without a scale, passes no comparison"
    if name == "texts" and by == "words":
        return "none has a word of the query; without --by words they are searched by what they mean, too"
    if name == "texts":
        return (
            "none has a word of the query, and by meaning they cannot be searched for it, as where it is in another "
            "script than Latin; give a Latin name or a translation"
        )
    return "none has a vector to compare"


def _show(answers: dict[str, list[Hit]], nothing: dict[str, str]) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    for name, hits in answers.items():
        if not hits:
            console.print(Text(f"nothing found in {name}: {nothing[name]}"), soft_wrap=True)
            continue
        console.print(Text(name.capitalize(), style="bold"))
        _table(console, hits)
        # The last reason says how the space was searched, the same for all.
        console.print(Text(f"{hits[0].reasons[-1]}\n", style="dim"), soft_wrap=True)


def _table(console: Console, hits: list[Hit]) -> None:
    """Scores, what it is, where it is, why."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    both = any(hit.words for hit in hits) and any(hit.vectors for hit in hits)
    own = any(len(hit.reasons) > 1 for hit in hits)
    # In a narrow window the place stands below what is there, so that both can be read.
    wide = console.width >= _WIDE
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("score", *(("BM25", "cosine") if both else ()), "id"):
        table.add_column(column, justify="right", no_wrap=True)
    for column in ("what", *(("where",) if wide else ()), *(("why",) if own else ())):
        table.add_column(column, overflow="fold")
    for hit in hits:
        record = hit.record
        what = Text.assemble(
            (record.taxon or "", "italic"), "\n" if record.taxon and record.text else "", _short(record.text)
        )
        size = f"\n{record.width_um:.1f} x {record.height_um:.1f} µm" if record.width_um and record.height_um else ""
        corner = f"\nat {record.box[0]:.0f}, {record.box[1]:.0f}" if record.box else ""
        row = [Text(f"{hit.score:.3f}")]
        if both:
            row += [Text(f"{hit.words.score:.2f}" if hit.words else "-")]
            row += [Text(f"{hit.vectors.score:.3f}" if hit.vectors else "-")]
        where = f"{record.slide or ''}{corner}{size}"
        if not wide:
            what.append(f"\n{where}" if what else where, style="dim")
        row += [Text(str(hit.id)), what, *[Text(where)][:wide]]
        table.add_row(*row, *[Text("\n".join(hit.reasons[:-1]))][:own])
    console.print(table)


def _short(text: str | None) -> str:
    return "" if text is None else text if len(text) <= 160 else f"{text[:159].rstrip()}…"
