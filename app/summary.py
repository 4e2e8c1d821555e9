"""What a detection job found, on the terminal: counts with intervals, troubles, where the files are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from ..data.taxa import counted_as
from ..vision.results import runtime_on
from .report import RunReport, SlideReport

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

__all__ = ["show"]

_MOST_TAXA = 20
_MOST_SLIDES = 12
_MOST_TROUBLES = 20
_MOST_NOTES = 6


def show(report: RunReport, *, errors_only: bool = False, console: Console | None = None) -> None:
    """Prints a summary on stderr; `NO_COLOR` and redirection make it plain.

    Args:
        report: The job.
        errors_only: Only what went wrong.
        console: Where to print.
    """
    from rich.console import Console
    from rich.text import Text

    console = console or Console(stderr=True, highlight=False)
    if not errors_only:
        console.print()
        console.print(_taxa(report))
        if len(report.read) > 1:
            console.print(_slides(report.read))
    if report.note and not errors_only:
        console.print(Text.assemble(("    note", "yellow"), f"  {report.note}"), soft_wrap=True)
    for trouble in report.troubles[:_MOST_TROUBLES]:
        word = {"ok": "warning", "failed": "failed"}.get(trouble.status, trouble.status)
        style = "yellow" if word != "failed" else "bold red"
        if not errors_only or trouble.status != "skipped":
            console.print(Text.assemble((f"{word:>8}", style), f"  {trouble.slide}: {trouble.reason}"), soft_wrap=True)
    if len(report.troubles) > _MOST_TROUBLES:
        console.print(f"          and {len(report.troubles) - _MOST_TROUBLES} more, all in run.json")
    if not errors_only:
        reused = sum(slide.reused for slide in report.read)
        took = f"{len(report.read)} slides" if len(report.read) > 1 else "1 slide"
        earlier = f", {reused} of them from an earlier run" if reused else ""
        console.print(Text(f"\n{took} in {_duration(report.seconds)}{earlier}. Tables: {report.out}"), soft_wrap=True)
        if made := _made(report):
            console.print(Text(f"Found by {made}, in full in run.json", "dim"), soft_wrap=True)
        for flag in sorted({flag for slide in report.read for flag in slide.flags}):
            console.print(Text(f"  flagged {flag}: {_names(s.slide for s in report.read if flag in s.flags)}"))
        notes = sorted({note for slide in report.read for note in slide.notes})
        for note in notes[:_MOST_NOTES]:
            console.print(Text(f"  {_names(s.slide for s in report.read if note in s.notes)}: {note}"), soft_wrap=True)
        if len(notes) > _MOST_NOTES:
            console.print(f"  and {len(notes) - _MOST_NOTES} more notes, all in run.json")


def _names(slides: Iterable[str]) -> str:
    """The first few of them."""
    names = list(slides)
    return f"{', '.join(names[:6])}{' …' if len(names) > 6 else ''}"


def _made(report: RunReport) -> str:
    """What a count depends on most, in a line."""
    key, conf = report.key, report.key["arguments"].get("conf")
    model = f"{key['model'].get('name', '')} {key['model'].get('sha256', '')[:8]}".strip()
    ran = runtime_on(key.get("runtime"), key.get("device"))
    return ", ".join(filter(None, (model, ran, "" if conf is None else f"confidence ≥ {conf:g}"))) if model else ""


def _table(title: str, *columns: tuple[str, str]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    title_text = Text(title, style="bold") if title else None
    table = Table(title=title_text, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in columns:
        table.add_column(name, justify=justify, overflow="fold" if justify == "left" else "ellipsis")  # type: ignore[arg-type]
    return table


def _taxa(report: RunReport) -> Table | Text:
    """Counts over all slides, the most frequent taxa first; a line where there is nothing to count."""
    from rich.text import Text

    rows = report.counts()
    grains = sum(row.n for row in rows)
    slides = report.read[0].slide if len(report.read) == 1 else f"{len(report.read)} slides"
    title = f"{grains} grain{'' if grains == 1 else 's'} on {slides}"
    if not rows:
        conf = report.key["arguments"].get("conf")
        if conf is None or not report.read:
            return Text(title, "bold")
        hint = f"Nothing was as sure as {conf:g}; a lower --conf shows what was less so."
        return Text.assemble((title, "bold"), "\n", hint)
    table = _table(title, ("taxon", "left"), ("n", "right"), ("%", "right"), ("95 % interval", "right"))
    for row in rows[:_MOST_TAXA]:
        style = "italic" if row.taxon not in ("unknown", "indeterminable") else "dim"
        table.add_row(Text(row.taxon, style), str(row.n), f"{row.percent:.1f}", f"{row.low:.1f} – {row.high:.1f}")
    rest = rows[_MOST_TAXA:]
    if rest:
        table.add_row(Text(f"and {len(rest)} more in counts.csv", "dim"), str(sum(row.n for row in rest)), "", "")
    return table


def _slides(slides: Sequence[SlideReport]) -> Table:
    """One line a slide."""
    from rich.text import Text

    warned = any(slide.flags or slide.fraction_read != 1 for slide in slides)
    warnings = (("read", "right"), ("flags", "left")) if warned else ()
    table = _table("", ("slide", "left"), ("grains", "right"), ("taxa", "right"), *warnings)
    for slide in slides[:_MOST_SLIDES]:
        row = [Text(slide.slide), Text(str(slide.grains)), Text(str(len(set(map(counted_as, slide.taxa)))))]
        if warned:
            row += [Text(f"{100 * (slide.fraction_read or 0):.1f} %"), Text(" ".join(slide.flags), "yellow")]
        table.add_row(*row)
    rest = slides[_MOST_SLIDES:]
    if rest:
        table.add_row(Text(f"and {len(rest)} more in run.json", "dim"), str(sum(slide.grains or 0 for slide in rest)))
    return table


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
