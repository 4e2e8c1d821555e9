"""`palyno serve`: the web page."""

from __future__ import annotations

import click

from . import options as shared


@click.command()
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="Address to listen on; the default is this machine."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=7860, show_default=True, help="Port; 0 takes a free one."
)
@shared.model
@shared.device
@shared.runtime
def serve(host: str, port: int, model: str, device: str, runtime: str) -> None:
    """Open the web page on this machine.

    Nothing is sent anywhere else. Another --host than 127.0.0.1 lets everyone who reaches this machine read slides.
    """
    from ..web import serve as run

    run(host=host, port=port, model=model, device=device, runtime=runtime)
