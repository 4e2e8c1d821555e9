"""The page: what is on it and what happens on a click. What is not about Gradio lies in the modules beside it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator
from functools import partial, wraps
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

from ...data.folders import IMAGE_SUFFIXES, SCANNER_SUFFIXES, find_slides
from ...errors import PalynoError, UsageError
from ...offline import switch_off
from . import view
from .choice import Detectors
from .files import CHOICES, make
from .session import LOWEST, Session, Sessions

switch_off()

import gradio as gr  # noqa: E402  after its switches are set

__all__ = ["MOST_SLIDES", "build_page"]

SAMPLES = Path(__file__).parents[2] / "data" / "samples"
MOST_SLIDES = 100

# These scanners write several files for one slide, which cannot be dropped as one.
_SUFFIXES = sorted((IMAGE_SUFFIXES | SCANNER_SUFFIXES) - {".dcm", ".mrxs", ".vms", ".vmu"})
_NOTHING = ("", None, "")


def build_page(detectors: Detectors, folder: str | Path) -> gr.Blocks:
    """The page.

    Args:
        detectors: What reads the slides, as the visitor chooses.
        folder: Where the visitors' files go: a folder below the one that Gradio serves files from.
    """
    sessions = Sessions(Path(folder))

    @_told
    def begin(given: list[str] | None, scale: str, request: gr.Request) -> tuple[Any, ...]:
        if not given:
            raise UsageError("no slide is here yet: drop an image and wait until it is there, or try a sample")
        if len(given) > MOST_SLIDES:
            raise UsageError(f"expected at most {MOST_SLIDES} slides, got {len(given)}; palyno detect takes any number")
        _um_per_px(scale)
        sessions[request.session_hash].begin()
        # What was read before is gone once the run begins.
        return gr.update(visible=False), view.waiting(), *_switch(len(starters), busy=True)

    def rest() -> tuple[Any, ...]:
        return _switch(len(starters), busy=False)

    @_told
    def read(given: list[str], scale: str, model: str | None, request: gr.Request) -> Iterator[str]:
        session = sessions[request.session_hash]
        detector = detectors[model]
        for step in session.read(detector, given, _um_per_px(scale)):
            yield view.progress(step)
        yield view.troubles(session, len(given))

    @_told
    def finish(conf: float, request: gr.Request) -> tuple[Any, ...]:
        session = sessions[request.session_hash]
        names = list(session.readings)
        if not names:
            return gr.update(visible=False), gr.update(visible=True), gr.update(), gr.update(), *_NOTHING
        choices = [*names, view.ALL] if len(names) > 1 else names
        chosen = gr.update(choices=choices, value=names[0], visible=len(names) > 1)
        told = view.footer(session.detector or detectors[None], _source())
        return gr.update(visible=True), gr.update(visible=False), chosen, told, *show(names[0], conf, request)

    @_told
    def show(slide: str | None, conf: float, request: gr.Request) -> tuple[Any, ...]:
        session = sessions[request.session_hash]
        if not session.readings:
            return _NOTHING
        if slide != view.ALL:
            slide = _slide_of(session, slide)
        return (
            view.headline(session, slide, conf),
            view.picture(session, slide, conf),
            view.counts(session, slide, conf),
        )

    @_told
    def explain(slide: str | None, event: gr.EventData, request: gr.Request) -> Iterator[str]:
        session = sessions[request.session_hash]
        try:
            conf, place = float(event._data["conf"]), int(event._data["place"])
        except (KeyError, TypeError, ValueError) as error:
            raise UsageError("expected a click on a grain") from error
        grain = session.grain(_slide_of(session, slide), max(LOWEST, conf), place)
        label = f"{grain.taxon} {grain.confidence:.2f}"
        yield view.explaining(label)
        yield view.explanation(session.explain(grain), label)

    def cancel(request: gr.Request) -> None:
        sessions[request.session_hash].cancel()

    def leave(request: gr.Request) -> None:
        sessions.close(request.session_hash)

    with gr.Blocks(title="palyno", fill_width=True, analytics_enabled=False, delete_cache=(3600, 86400)) as page:
        gr.HTML(view.HEADER, elem_id="header")
        with gr.Row(elem_id="columns"):
            with gr.Column(scale=0, min_width=272, elem_id="controls"):
                files = gr.File(
                    label="Slides", file_count="multiple", file_types=_SUFFIXES, height=150, elem_id="slides"
                )
                with gr.Row(elem_id="samples"):
                    tries = {path: gr.Button(_label(path), size="sm", min_width=80) for path in _samples()}
                um = gr.Textbox(
                    label="Micrometres per pixel", placeholder="as the file says", max_length=12, elem_id="um"
                )
                model = gr.Dropdown(
                    label="Model",
                    choices=detectors.choices(),
                    value=detectors.first,
                    filterable=False,
                    visible=len(detectors.choices()) > 1,
                    elem_id="model",
                )
                start = gr.Button("Find the grains", variant="primary", elem_id="start")
                stop = gr.Button("Cancel", variant="stop", visible=False, elem_id="stop")
                status = gr.HTML(elem_id="status")
                conf = gr.Slider(
                    LOWEST, 0.95, 0.25, step=0.01, label="Confidence at least", buttons=[], elem_id="confidence"
                )
                # Typed beside it, 0.4 begins with a 0: what is beyond an end is the end.
                conf.preprocess = lambda payload: min(max(payload or LOWEST, LOWEST), conf.maximum)  # type: ignore[method-assign]
            with gr.Column(scale=1, min_width=320, visible=False) as results:
                slide = gr.Dropdown(label="Slide", visible=False, elem_id="slide")
                with gr.Row(elem_id="found"):
                    with gr.Column(scale=5, min_width=320):
                        headline = gr.HTML(elem_id="headline")
                        picture = gr.HTML(
                            html_template=_asset("viewer.html"), js_on_load=_asset("viewer.js"), elem_id="viewer"
                        )
                        why = gr.HTML(elem_id="why")
                    with gr.Column(scale=3, min_width=300):
                        table = gr.HTML(elem_id="counts")
                        everything = gr.Button("Download everything", variant="primary", size="md", elem_id="get-all")
                        with gr.Row(elem_id="formats"):
                            single = {
                                name: gr.Button(label, size="sm", min_width=100, elem_id=f"get-{name}")
                                for name, label in CHOICES.items()
                            }
                        ready = gr.DownloadButton(elem_id="ready")
            with gr.Column(scale=1, min_width=320) as welcome:
                gr.HTML(view.WELCOME, elem_id="welcome")
        footer = gr.HTML(view.footer(detectors[None], _source()), elem_id="footer")

        # No part of the page is an endpoint for programs: they have the Python interface.
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        shown = [headline, picture, table]
        starters = [start, *tries.values()]

        def run(button: gr.Button, given: gr.components.Component) -> None:
            """Chains a run to a button; the model works for one visitor at a time."""
            switched = [*starters, stop]
            begun = button.click(begin, [given, um], [results, status, *switched], concurrency_limit=None, **quiet)
            done = begun.success(read, [given, um, model], status, concurrency_limit=1, concurrency_id="model", **quiet)
            # After a failure, `then` does not come.
            for ended in (done.success, done.failure):
                ended(finish, conf, [results, welcome, slide, footer, *shown], concurrency_limit=8, **quiet)
                ended(lambda: "", None, why, queue=False, **quiet)
                ended(rest, None, switched, queue=False, **quiet)

        run(start, files)
        for path, button in tries.items():
            run(button, gr.State([str(path)]))
        stop.click(cancel, queue=False, **quiet)
        for changed in (conf.change, slide.input):
            changed(show, [slide, conf], shown, trigger_mode="always_last", concurrency_limit=8, **quiet)
        slide.input(lambda: "", None, why, queue=False, **quiet)
        picture.click(explain, slide, why, concurrency_limit=1, concurrency_id="model", trigger_mode="once", **quiet)
        for name, button in {"all": everything, **single}.items():
            busy = button.click(
                partial(gr.update, value="Writing …", interactive=False), None, button, queue=False, **quiet
            )
            made = busy.then(_maker(sessions, name), conf, ready, concurrency_limit=2, **quiet)
            made.success(None, js=_asset("download.js"), **quiet)
            for ended in (made.success, made.failure):
                ended(partial(gr.update, value=button.value, interactive=True), None, button, queue=False, **quiet)
        page.unload(leave)
    return page


def _told(act: Callable[..., Any]) -> Callable[..., Any]:
    """Shows palyno's own errors to the visitor. Their text may hold names of files, so it is not taken for HTML."""
    if inspect.isgeneratorfunction(act):

        @wraps(act)
        def steps(*args: Any) -> Iterator[Any]:
            try:
                yield from act(*args)
            except PalynoError as error:
                raise gr.Error(escape(str(error)), print_exception=False) from error

        return steps

    @wraps(act)
    def once(*args: Any) -> Any:
        try:
            return act(*args)
        except PalynoError as error:
            raise gr.Error(escape(str(error)), print_exception=False) from error

    return once


def _slide_of(session: Session, slide: str | None) -> str:
    """The slide that is shown: the one that was chosen, or the only one, for which there is nothing to choose."""
    return slide if slide in session.readings else next(iter(session.readings), "")


def _maker(sessions: Sessions, choice: str) -> Callable[..., Any]:
    """What a download button does."""

    @_told
    def files(conf: float, request: gr.Request) -> str:
        return str(make(sessions[request.session_hash], choice, conf))

    return files


def _switch(starters: int, *, busy: bool) -> tuple[Any, ...]:
    """Shows Cancel in place of the first button that starts a run and disables the others, or the reverse."""
    others = (gr.update(interactive=not busy) for _ in range(starters - 1))
    return gr.update(visible=not busy), *others, gr.update(visible=busy)


def _um_per_px(text: str) -> float | None:
    """The number in the field, None where it is empty.

    Raises:
        UsageError: It is not a positive number.
    """
    if not text.strip():
        return None
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UsageError(f"expected a positive number of micrometres per pixel, such as 0.25, got {text!r}")
    return value


def _samples() -> list[Path]:
    return sorted(find_slides([SAMPLES])[0])


def _label(sample: Path) -> str:
    return sample.stem.replace("_", " ").capitalize()


def _source() -> str | None:
    """Where the project says its source is, if it says so."""
    urls = dict(line.split(", ", 1) for line in metadata.metadata("palyno").get_all("Project-URL") or ())
    return next((url for name, url in urls.items() if name.lower() in ("source", "repository", "homepage")), None)


def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")
