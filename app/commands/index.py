"""`palyno index`: collections of grains and texts, made, filled and looked after."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from . import options as shared

if TYPE_CHECKING:
    from ...retrieval.collection import Collection
    from ..collecting import SourceReport

_MOST = 20

collection_path = click.argument("collection", metavar="COLLECTION", type=click.Path(path_type=Path))
sources = click.argument(
    "sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path)
)
slides = click.option(
    "--slides",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where to look for slides that are not where they were read.",
)
update = click.option("--update", is_flag=True, help="Replace records that are there, instead of leaving them.")
reading = (
    click.option(
        "--encoder",
        metavar="NAME|FILE",
        help="Weights of regions, such as grain-regions: SOURCE... are slides then, and the pass that finds their "
        "grains gives each its vector, too.",
    ),
    click.option("--model", metavar="NAME|FILE", help="With --encoder: the detector, where it does not ship."),
    click.option("--device", metavar="auto|cpu|cuda[:N]|mps", help="With --encoder: where it runs.  [default: auto]"),
    click.option("--conf", type=shared.Finite(0, 1), help="With --encoder: least confidence.  [default: 0.25]"),
    click.option("--um-per-px", type=shared.Finite(0, min_open=True), help="With --encoder: micrometres a pixel."),
)
where = click.option("--where", metavar="EXPR", help="Only records that pass, such as \"taxon = 'Betula'\".")


def _with(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.group()
def index() -> None:
    """Keep a searchable collection of grains and texts.

    COLLECTION is a folder. SOURCE is the folder of a finished `palyno detect`, a file of texts (.txt, .jsonl, .csv,
    .bib, .ris), or a folder of such files; with --encoder, a slide or a folder of slides.
    """


@index.command()
@collection_path
@sources
@slides
@_with(*reading)
@shared.overwrite
@shared.quiet
@shared.as_json
def build(
    collection: Path,
    sources: tuple[Path, ...],
    slides: Path | None,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
    **reading: Any,
) -> int:
    """Make a new collection from SOURCE...

    With --overwrite a collection that is there is emptied by the same commit that fills it; where nothing comes in, it
    stays as it is.
    """
    from ...errors import UsageError
    from ...retrieval.collection import Collection
    from ..collecting import PATIENCE

    fill = _filling(sources, slides, False, quiet, reading)
    if (collection / "manifest.json").exists():
        with Collection.open(collection, indexes=False) as opened:
            if len(opened) and not overwrite:
                raise UsageError(f"{collection} has records; add to it with palyno index add, or give --overwrite")
            reports: list[SourceReport] = []
            with contextlib.suppress(_NothingCameIn), opened.batch(wait=PATIENCE):
                opened.delete(where="id > 0")
                reports = _filled(opened, fill)
                if not _came_in(reports):
                    # An error undoes the batch.
                    raise _NothingCameIn
            return _told(opened, reports, quiet, as_json)
    with Collection.create(collection) as made:
        return _fill(made, fill, quiet, as_json)


@index.command()
@collection_path
@sources
@slides
@_with(*reading)
@update
@shared.quiet
@shared.as_json
def add(
    collection: Path,
    sources: tuple[Path, ...],
    slides: Path | None,
    update: bool,
    quiet: bool,
    as_json: bool,
    **reading: Any,
) -> int:
    """Add the grains or texts of SOURCE... to a collection; those that are there already stay as they are."""
    fill = _filling(sources, slides, update, quiet, reading)
    with _opened(collection) as opened:
        return _fill(opened, fill, quiet, as_json)


@index.command()
@collection_path
@click.option("--id", "ids", multiple=True, type=click.IntRange(min=1), help="A record; may be repeated.")
@where
@shared.as_json
def remove(collection: Path, ids: tuple[int, ...], where: str | None, as_json: bool) -> None:
    """Remove records, by their ids or by a filter."""
    from ...errors import UsageError

    if bool(ids) == (where is not None):
        raise UsageError("expected either --id or --where, to be sure of what is meant")
    with _opened(collection) as opened:
        removed = opened.delete(list(dict.fromkeys(ids)) or None, where=where)
        _tell({"removed": removed, "records": len(opened)}, as_json, f"removed {removed}; {len(opened)} are left")


@index.command()
@collection_path
@shared.as_json
def info(collection: Path, as_json: bool) -> None:
    """Say what a collection holds and how it is searched."""
    with _opened(collection) as opened:
        told = opened.info()
    if as_json:
        click.echo(json.dumps(told, ensure_ascii=False))
        return
    kinds = ", ".join(f"{n:,} {kind}s" for kind, n in told["kinds"].items())
    click.echo(
        f"{told['path']}: generation {told['generation']} of {told['created']}, {told['bytes'] / 2**20:,.1f} MiB"
    )
    click.echo(f"{told['records']:,} records: {kinds}")
    if told["texts_by_words"]:
        click.echo(f"  words: those of {told['texts_by_words']:,} texts, searched by BM25")
    for space in told["spaces"]:
        how = (
            "every vector compared"
            if space["exact"]
            else f"{space['nprobe']} of its lists read, recall {space['recall']}"
        )
        reads = f" of {' and '.join(f'{one}s' for one in space['modalities'])}" if space["modalities"] else ""
        click.echo(f"  {space['encoder_id']}: {space['vectors']:,} vectors{reads}, {space['dim']} numbers each")
        click.echo(f"    searched by {space['index']}: {how}")
        if unused := space.get("rows", 0) - space["vectors"]:
            click.echo(f"    {unused:,} rows are no longer used; palyno index compact gives back their room")


@index.command()
@collection_path
@shared.as_json
def verify(collection: Path, as_json: bool) -> int:
    """Read every byte and compare it with what was committed. Exits with 5 where something differs."""
    from ...retrieval.collection.verify import verify_files

    checks = verify_files(collection)
    if as_json:
        rows = [{"file": check.file, "ok": check.ok, "what": check.what, "faults": check.faults} for check in checks]
        click.echo(json.dumps({"collection": str(collection), "files": rows}, ensure_ascii=False))
    else:
        for check in checks:
            click.echo(f"{'ok' if check.ok else 'REFUSED':>8}  {check.file}  ({check.what})")
            for fault in check.faults[:_MOST]:
                click.echo(f"          {fault}")
    return 0 if all(check.ok for check in checks) else 5


@index.command()
@collection_path
@shared.as_json
def compact(collection: Path, as_json: bool) -> None:
    """Give back the room of removed records, and make the indexes anew."""
    with _opened(collection) as opened:
        before = opened.info()["bytes"]
        opened.compact()
        after = opened.info()["bytes"]
    _tell({"bytes_before": before, "bytes": after}, as_json, f"{before / 2**20:,.1f} MiB, now {after / 2**20:,.1f} MiB")


@index.command()
@collection_path
@click.option("--exact-below", type=click.IntRange(min=1), help="From how many vectors on a space has an index.")
@shared.as_json
def rebuild(collection: Path, exact_below: int | None, as_json: bool) -> None:
    """Make the indexes anew from the vectors; mends a collection whose index was refused."""
    from ...retrieval.collection import Collection

    with Collection.open(collection, indexes=False) as opened:
        opened.rebuild(exact_below=exact_below)
        told = opened.info()["spaces"]
    _tell({"spaces": told}, as_json, "\n".join(f"{space['encoder_id']}: {space['index']}" for space in told))


@index.command()
@collection_path
@click.argument("target", metavar="TARGET", type=click.Path(path_type=Path))
@shared.as_json
def snapshot(collection: Path, target: Path, as_json: bool) -> None:
    """Copy a collection to the new folder TARGET as it is now, whoever writes to it meanwhile."""
    with _opened(collection, indexes=False) as opened:
        opened.snapshot(target)
        told = {"snapshot": str(target), "generation": opened.info()["generation"], "records": len(opened)}
    _tell(told, as_json, f"{told['records']:,} records of generation {told['generation']}: {target}")


@index.command()
@collection_path
@click.option(
    "--threshold", default=0.98, show_default=True, type=shared.Finite(0, 1, min_open=True), help="Least cosine."
)
@click.option(
    "--space", metavar="ENCODER_ID", help="Where to compare, as palyno index info names it; the fullest if left out."
)
@where
@shared.as_json
def duplicates(collection: Path, threshold: float, space: str | None, where: str | None, as_json: bool) -> None:
    """List pairs of grains that are nearly the same.

    Texts are compared where --where leaves no grain, such as "kind = 'text'".
    """
    with _opened(collection) as opened:
        found = opened.duplicates(threshold, encoder=space, where=where)
        told = {i: opened.get(i) for pair in found.pairs[:_MOST] for i in (pair.first, pair.second)}
    if as_json:
        click.echo(json.dumps({**vars(found), "pairs": [vars(pair) for pair in found.pairs]}))
        return
    for pair in found.pairs[:_MOST]:
        names = (f"{i} ({told[i].taxon or told[i].kind}, {told[i].slide})" for i in (pair.first, pair.second))
        click.echo(f"{pair.score:.4f}  {'  '.join(names)}{'  on one slide' if pair.same_slide else ''}")
    n = len(found.pairs)
    shown = f", {_MOST} shown; --json lists all" if n > _MOST else ""
    among = f" among {_number(found.compared, found.kind)} in {found.encoder_id}" if found.encoder_id else ""
    click.echo(f"{_number(n, 'pair')}{among}{shown}", err=True)
    if found.encoder_id is None:
        click.echo("nothing that passes has a vector to compare", err=True)
    elif found.left_out:
        click.echo(f"{_number(found.left_out, found.kind)} without a vector there not compared", err=True)


class _NothingCameIn(Exception):
    """Undoes what was emptied to be filled."""


@contextlib.contextmanager
def _opened(path: Path, **options: Any) -> Iterator[Collection]:
    from ...retrieval.collection import Collection

    with Collection.open(path, **options) as opened:
        yield opened


def _filling(
    sources: Sequence[Path], slides: Path | None, update: bool, quiet: bool, reading: dict[str, Any]
) -> Callable[[Collection], list[SourceReport]]:
    """What adds the sources; whatever is wrong with them or the encoder is told before a collection is touched."""
    from ...errors import UsageError
    from ..progress import for_terminal

    known: Literal["update", "skip"] = "update" if update else "skip"
    if (encoder := reading.pop("encoder")) is None:
        from ..collecting import collect, find_sources

        if given := [name for name, value in reading.items() if value is not None]:
            raise UsageError(f"--{given[0].replace('_', '-')} is for slides: expected --encoder with it, got none")
        found = find_sources(sources)
        return lambda collection: collect(collection, found, known=known, slides=slides, progress=for_terminal(quiet))
    from ...retrieval.encoders.image import RegionEncoder
    from ..inputs import gather
    from ..slide_collecting import collect_slides

    if slides is not None:
        raise UsageError("--slides is for results of palyno detect, got --encoder: name the slides as SOURCE...")
    for source in sources:
        gather([source])
    with contextlib.redirect_stdout(sys.stderr):
        regions = RegionEncoder(encoder, detector=reading["model"], device=reading["device"] or "auto")
        _ = regions.detector
    arguments = {"conf": 0.25 if reading["conf"] is None else reading["conf"], "um_per_px": reading["um_per_px"]}
    return lambda collection: collect_slides(
        collection, sources, regions, known=known, progress=for_terminal(quiet), **arguments
    )


def _fill(collection: Collection, fill: Callable[[Collection], list[SourceReport]], quiet: bool, as_json: bool) -> int:
    """Adds the sources and tells what became of them; 3 where something was left out, 4 where nothing came in."""
    return _told(collection, _filled(collection, fill), quiet, as_json)


def _filled(collection: Collection, fill: Callable[[Collection], list[SourceReport]]) -> list[SourceReport]:
    with contextlib.redirect_stdout(sys.stderr):
        return fill(collection)


def _came_in(reports: Sequence[SourceReport]) -> bool:
    return any(report.added or report.known for report in reports)


def _told(collection: Collection, reports: Sequence[SourceReport], quiet: bool, as_json: bool) -> int:
    _tell_reports(collection, reports, quiet, as_json)
    if not _came_in(reports):
        return 4
    return 3 if any(report.skipped for report in reports) else 0


def _tell_reports(collection: Collection, reports: Sequence[SourceReport], quiet: bool, as_json: bool) -> None:
    if as_json:
        told = {"collection": str(collection.path), "records": len(collection)}
        click.echo(json.dumps({**told, "sources": [report.document() for report in reports]}, ensure_ascii=False))
    for report in reports:
        for what, reason in report.skipped[:_MOST]:
            click.echo(f" skipped  {what}: {reason}", err=True)
        if len(report.skipped) > _MOST:
            click.echo(
                f"          and {len(report.skipped) - _MOST} more of {report.source}; --json lists all", err=True
            )
    if not (quiet or as_json):
        for report in reports:
            known = f", {report.known:,} known" if report.known else ""
            by_words = f", {report.by_words:,} of them to be found by words alone" if report.by_words else ""
            left = f", {len(report.skipped):,} left out" if report.skipped else ""
            click.echo(f"{report.source}: {report.added:,} added{known}{by_words}{left}", err=True)
        click.echo(f"{collection.path}: {len(collection):,} records", err=True)


def _number(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _tell(document: dict[str, Any], as_json: bool, line: str) -> None:
    if as_json:
        click.echo(json.dumps(document, ensure_ascii=False))
    else:
        click.echo(line, err=True)
