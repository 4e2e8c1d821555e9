"""Opens the page on this machine, and refuses what Gradio would do for a stranger beyond it."""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from ...errors import UsageError
from ...offline import switch_off
from .choice import Detectors

__all__ = ["serve"]

MOST_BYTES = "2gb"

# Nothing on the page may come from or go to another machine; the browser sees to it.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)


def serve(
    host: str = "127.0.0.1",
    port: int = 7860,
    model: str = "hieraedge-n",
    device: str = "auto",
    runtime: str = "auto",
    open_browser: bool = False,
    results: str | Path | None = None,
) -> None:
    """Serves the page until interrupted.

    Args:
        host: Address to listen on; only this machine can reach the default.
        port: Port to listen on; 0 takes the first free one from 7860 upwards.
        model: Name of a model, or path of a weights file; the page offers those that ship beside it.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        runtime: `auto`, `torch` or `onnxruntime`, see `palyno.load`.
        open_browser: Open the page in the browser.
        results: Folder for the visitors' files; a temporary one, removed at the end, if None.

    Raises:
        UsageError: The port is taken.
        RejectedModelError: The model was refused.
    """
    from ...vision.detector import load
    from ...vision.weights import shipped_models

    detector = load(model, device=device, runtime=runtime, on_prepare=_say)
    if detector.note:
        _say(detector.note)
    others = [name for name, shipped in shipped_models().items() if shipped.kind == "detector"]
    folder = Path(tempfile.mkdtemp(prefix="palyno-", dir=results))
    try:
        page = launch(
            Detectors(detector, others, device=device, runtime=runtime, on_prepare=_say),
            folder,
            host=host,
            port=port,
            open_browser=open_browser,
        )
        page.block_thread()
    finally:
        if results is None:
            shutil.rmtree(folder, ignore_errors=True)


def launch(detectors: Detectors, folder: Path, *, host: str, port: int, open_browser: bool = False) -> Any:
    """Starts the page without blocking.

    Args:
        detectors: What reads the slides, as the visitor chooses.
        folder: An empty folder that is the page's own: every file below it can be fetched by who knows its name.
        host: Address to listen on.
        port: Port to listen on; 0 takes the first free one from 7860 upwards.
        open_browser: Open the page in the browser.

    Returns:
        The running `gradio.Blocks`; its `local_url` is the address.

    Raises:
        UsageError: The port is taken.
    """
    switch_off()
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    import gradio as gr

    from .page import build_page

    fonts = ["ui-sans-serif", "system-ui", "sans-serif"]
    theme = gr.themes.Default(
        primary_hue="teal", neutral_hue="stone", font=fonts, font_mono=["ui-monospace", "monospace"], radius_size="md"
    )
    page = build_page(detectors, folder / "sessions").queue(max_size=64, default_concurrency_limit=1, api_open=False)
    try:
        page.launch(
            server_name=host,
            server_port=port or None,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            share=False,
            show_error=True,
            quiet=True,
            allowed_paths=[],
            max_file_size=MOST_BYTES,
            footer_links=[],
            enable_monitoring=False,
            mcp_server=False,
            run_history=False,
            ssr_mode=False,
            pwa=False,
            app_kwargs={
                "docs_url": None,
                "redoc_url": None,
                "openapi_url": None,
                "middleware": _middleware(host),
            },
            theme=theme,
            css_paths=Path(__file__).parent / "page.css",
        )
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}: {error}; give another --port") from error
    print(f"palyno is at {page.local_url} (Ctrl-C ends it)", flush=True)
    return page


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _middleware(host: str) -> list[Any]:
    from starlette.middleware import Middleware
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    layers = [Middleware(_Guard)]
    if host in ("127.0.0.1", "localhost"):
        # A site elsewhere could give its name this machine's address and so make a browser its messenger.
        layers.append(Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"]))
    return layers


class _Guard:
    """Adds the policy to every answer, and refuses Gradio's routes that fetch from other machines."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] == "http" and _fetches(scope["path"]):
            await send({"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"palyno serves its own files only"})
            return

        async def guarded(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", _POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"no-referrer"),
                ]
            await send(message)

        await self.app(scope, receive, guarded)


def _fetches(path: str) -> bool:
    """Whether a path asks this server to get something from an address."""
    return re.search(r"/(file|proxy)[=/][a-z][a-z0-9+.-]*:/", path, re.IGNORECASE) is not None
