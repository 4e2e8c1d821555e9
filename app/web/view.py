"""What the page shows of a session at a confidence: the data of the picture viewer, the headline, the counts."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from ... import __version__
from ...data.counts import Tally, tally
from ...data.palette import RGB, colours
from ...data.taxa import counted_as
from ...vision.results import SlideResult, runtime_on
from .session import LOWEST, Session, Step

if TYPE_CHECKING:
    from ...vision.detector import Detector

__all__ = [
    "ALL",
    "HEADER",
    "WELCOME",
    "counts",
    "explaining",
    "explanation",
    "footer",
    "headline",
    "picture",
    "progress",
    "troubles",
    "waiting",
]

# The entry of the slide list that shows the counts of all slides together.
ALL = "All slides together"

# A browser draws so many outlines without lagging; the counts and the files hold all grains.
MOST_OUTLINES = 10_000

HEADER = "<h1>palyno</h1><p>Finds, names and counts the pollen on your slides. They do not leave this computer.</p>"
WELCOME = """
<h2>Drop slide images, or try a sample.</h2>
<ol>
<li>Every grain is outlined once, however large the slide is and however many there are.</li>
<li>The counts come with the limits within which the share of each taxon lies, 19 times out of 20.</li>
<li>The slider filters by confidence at once, and what you download is what you see.</li>
</ol>"""


def picture(session: Session, slide: str, conf: float) -> dict[str, Any] | None:
    """What viewer.js draws: the address of the picture, and the outlines by taxon; None for all slides together."""
    if slide not in session.readings:
        return None
    reading = session.readings[slide]
    result = reading.result.above(conf)
    # Their places among all grains of this confidence: what a click on one sends back.
    places = np.arange(len(result))
    if len(result) > MOST_OUTLINES:
        places = np.sort(np.argsort(-result.confidence, kind="stable")[:MOST_OUTLINES])
        result = result.select(places)
    palette = colours(session.found())
    # A row of the counts lights up all grains that it counts; each keeps its own name in its label.
    names = list(dict.fromkeys(map(counted_as, result.taxa)))
    number = {name: index for index, name in enumerate(names)}
    return {
        "url": f"gradio_api/file={quote(str(reading.picture))}",
        "slide": slide,
        "width": result.width,
        "height": result.height,
        "umPerPx": result.um_per_px,
        "conf": conf,
        "taxa": [{"name": name, "colour": _hex(palette[name])} for name in names],
        "grains": [
            {
                "place": int(place),
                "box": [round(float(v), 1) for v in box],
                "taxon": number[counted_as(taxon)],
                "label": f"{taxon} {confidence:.2f}" + (f", {', '.join(flags)}" if flags else ""),
            }
            for place, box, taxon, confidence, flags in zip(
                places, result.boxes, result.taxa, result.confidence, result.grain_flags, strict=True
            )
        ],
    }


def headline(session: Session, slide: str, conf: float) -> str:
    """How many grains on how much of which slide, as HTML."""
    results = _chosen(session, slide, conf)
    n = sum(map(len, results))
    facts = []
    if len(results) == 1:
        (result,) = results
        facts.append(f"{result.width} × {result.height} px")
        facts.append(f"{result.um_per_px:g} µm per pixel" if result.um_per_px else "pixel size unknown")
        if result.fraction_read < 1:
            facts.append(f"{100 * result.fraction_read:.1f} % of the slide read")
        facts += result.notes
    else:
        facts.append(f"{len(results)} slides")
    facts.append(f"{session.seconds:.1f} s")
    flags = sorted({flag for result in results for flag in result.flags})
    if len(results) == 1 and n > MOST_OUTLINES:
        flags.append(f"outlines of the surest {MOST_OUTLINES} only")
    warning = f"<span class='flags'>{escape(', '.join(flags))}</span>" if flags else ""
    word = "grain" if n == 1 else "grains"
    line = f"<strong>{n}</strong> {word} <span class='facts'>{escape(' · '.join(facts))}</span>{warning}"
    return f"<div class='headline'>{line}</div>" + (_slides(results) if len(results) > 1 else "")


def _slides(results: Sequence[SlideResult]) -> str:
    """The grains of each slide, where no picture is shown."""
    rows = "".join(f"<tr><td>{escape(result.slide)}</td><td>{len(result)}</td></tr>" for result in results)
    return f"<table class='counts slides'><thead><tr><th>Slide</th><th>n</th></tr></thead><tbody>{rows}</tbody></table>"


def counts(session: Session, slide: str, conf: float) -> str:
    """The tally with its intervals as an HTML table, which spreadsheets take by copy and paste."""
    results = _chosen(session, slide, conf)
    rows = tally(counted_as(taxon) for result in results for taxon in result.taxa)
    if not rows:
        best = max((float(c) for result in _chosen(session, slide, LOWEST) for c in result.confidence), default=None)
        hint = "Nothing was found." if best is None else f"None this sure; the surest grain has {best:.2f}."
        return f"<p class='none'>{hint}</p>"
    palette = colours(session.found())
    ranks = {
        counted_as(taxon): rank for result in results for taxon, rank in zip(result.taxa, result.ranks, strict=True)
    }
    body = "".join(_row(row, palette[row.taxon], ranks[row.taxon]) for row in rows)
    return (
        "<table class='counts'><caption>Counts, with 95&nbsp;% limits of the share</caption>"
        "<thead><tr><th>Taxon</th><th>n</th><th>%</th><th>low</th><th>high</th></tr></thead>"
        f"<tbody>{body}</tbody><tfoot><tr><td>Sum</td><td>{rows[0].sum}</td><td colspan=3></td></tr></tfoot></table>"
    )


def explaining(label: str) -> str:
    """That a grain is being explained, as HTML."""
    return f"<p class='explaining' role='status'>Looking at why <b>{escape(label)}</b> …</p>"


def explanation(picture: Path, label: str) -> str:
    """The panel of a grain, as HTML."""
    address = f"gradio_api/file={quote(str(picture))}"
    return f"<img class='explanation' src='{escape(address, quote=True)}' alt='Why {escape(label, quote=True)}'>"


def waiting() -> str:
    """A bar for the time until the model is free, as HTML."""
    return "<div class='progress' role='status'><span>Waiting for the model</span><progress></progress></div>"


def progress(step: Step) -> str:
    """A bar with the slide, its tiles, and the time left, as HTML."""
    share = (step.index + (step.done / step.tiles if step.tiles else 0)) / step.slides
    told = []
    if step.slides > 1:
        told.append(f"slide {step.index + 1} of {step.slides}")
    if step.tiles:
        told.append(f"tile {step.done} of {step.tiles}")
    if step.tiles and step.done == step.tiles:
        told.append("drawing")
    elif step.done:
        told.append(f"about {max(1, round(step.seconds / step.done * (step.tiles - step.done)))} s left on this slide")
    return (
        f"<div class='progress' role='status'><span>Reading <b>{escape(step.slide)}</b> {' · '.join(told)}</span>"
        f"<progress max='1' value='{share:.3f}'></progress></div>"
    )


def troubles(session: Session, asked: int) -> str:
    """What could not be read and why, as HTML; empty where all went well."""
    lines = [f"<li><b>{escape(name)}</b>: {escape(reason)}</li>" for name, reason in session.failures.items()]
    left = asked - len(session.readings) - len(session.failures)
    if session.cancelled and left:
        lines.append(f"<li>Cancelled: {left} of {asked} slides {'was' if left == 1 else 'were'} not read.</li>")
    return f"<ul class='troubles' role='alert'>{''.join(lines)}</ul>" if lines else ""


def footer(detector: Detector, source: str | None) -> str:
    """Version, model, what runs it, licence, and where the source is, as HTML."""
    where = (
        f"<a href='{escape(source, quote=True)}' rel='noopener'>its source</a>"
        if source and source.startswith("https://")
        else "its source comes with the installed package"
    )
    ran = runtime_on(getattr(detector, "runtime", None), detector.device)
    return (
        f"palyno {__version__} · model {escape(detector.name)} <code title='{escape(detector.sha256, quote=True)}'>"
        f"{escape(detector.sha256[:12])}</code>, {escape(ran)} · free software under "
        f"AGPL-3.0-or-later, {where}"
    )


def _chosen(session: Session, slide: str, conf: float) -> Sequence[SlideResult]:
    if slide in session.readings:
        return [session.readings[slide].result.above(conf)]
    return session.results(conf)


def _row(row: Tally, colour: RGB, rank: str) -> str:
    name = escape(row.taxon, quote=True)
    shown = (
        f"<i>{name}</i>" if rank in ("species", "genus") and row.taxon not in ("unknown", "indeterminable") else name
    )
    bar = (
        f"<div class='share' style='--low:{row.low:.2f}%;--mid:{row.percent:.2f}%;--high:{row.high:.2f}%;"
        f"--colour:{_hex(colour)}' aria-hidden='true'><b></b><i></i></div>"
    )
    return (
        f'<tr data-taxon="{name}"><td><span class="swatch" style="background:{_hex(colour)}"></span>{shown}{bar}</td>'
        f"<td>{row.n}</td><td>{row.percent:.1f}</td><td>{row.low:.1f}</td><td>{row.high:.1f}</td></tr>"
    )


def _hex(colour: RGB) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
