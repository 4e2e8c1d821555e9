"""`palyno doctor`: whether this machine can run palyno, and with what."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
from typing import Any

import click

from . import options as shared


@click.command()
@shared.as_json
def doctor(as_json: bool) -> int:
    """Say whether this machine can run palyno, and with what.

    Looks at versions, devices, image readers, the shipped weights, the cache folder and the network switches; sends
    nothing. Exits with 1 where something that detection needs is missing.
    """
    with contextlib.redirect_stdout(io.StringIO()):
        found = examine()
    if as_json:
        click.echo(json.dumps(found))
    else:
        _show(found)
    return 1 if found["problems"] else 0


def examine() -> dict[str, Any]:
    """What there is on this machine, and under `problems` what is missing."""
    from ...offline import SWITCHES, cache_dir
    from ..report import versions

    problems: list[str] = []
    found: dict[str, Any] = {
        "versions": versions(),
        "system": {
            "platform": platform.platform(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
    }
    for name, look in (("devices", _devices), ("readers", _readers), ("models", _models)):
        try:
            found[name] = look()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
            problems.append(f"{name}: {found[name]}")
    if found["models"] == []:
        problems.append("models: none is installed; install palyno again")
    elif isinstance(found["models"], list):
        problems += [f"model {m['name']}: {m['status']}" for m in found["models"] if m.get("status", "ok") != "ok"]
    cache = cache_dir()
    found["cache"] = {"path": str(cache), "writable": _writable(cache)}
    found["network_switches"] = {name: os.environ.get(name) for name in (*SWITCHES, "YOLO_CONFIG_DIR")}
    found["problems"] = problems
    return found


def _devices() -> list[dict[str, Any]]:
    import torch

    devices: list[dict[str, Any]] = [{"device": "cpu", "threads": torch.get_num_threads()}]
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        memory = round(properties.total_memory / 2**30, 1)
        devices.append({"device": f"cuda:{i}", "name": properties.name, "memory_gib": memory})
    if torch.backends.mps.is_available():
        devices.append({"device": "mps"})
    return devices


def _readers() -> dict[str, str]:
    import imagecodecs
    import openslide
    import PIL
    import tifffile

    return {
        "pillow": PIL.__version__,
        "tifffile": tifffile.__version__,
        "imagecodecs": imagecodecs.__version__,
        "openslide": openslide.__library_version__,
    }


def _models() -> list[dict[str, Any]]:
    from .models import verified

    return verified()


def _writable(path: Any) -> bool:
    while not path.exists():
        path = path.parent
    return os.access(path, os.W_OK)


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for section, content in found.items():
        if section == "problems":
            continue
        lines = content if isinstance(content, list) else [content]
        for number, line in enumerate(lines):
            text = ", ".join(f"{k} {v}" for k, v in line.items()) if isinstance(line, dict) else str(line)
            table.add_row(Text(section.replace("_", " ") if number == 0 else "", "bold"), Text(text))
    console = Console(highlight=False)
    console.print(table)
    for problem in found["problems"]:
        console.print(Text.assemble(("problem  ", "bold red"), problem))
    if not found["problems"]:
        console.print(Text("All that detection needs is here.", "green"))
