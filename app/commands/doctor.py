"""`palyno doctor`: whether this machine can run palyno, and with what."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import sys
from typing import TYPE_CHECKING, Any

import click

from . import options as shared

if TYPE_CHECKING:
    from ...vision.runtimes.kept import Networks, Outlook


@click.command()
@shared.as_json
def doctor(as_json: bool) -> int:
    """Say whether this machine can run palyno, and with what.

    Looks at versions, devices, image readers, the shipped weights, what runs them on a CPU and whether its prepared
    networks are whole, the cache folder and the network switches; changes and sends nothing. Exits with 1 where
    something that detection needs is missing.
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
    from ...vision.runtimes.kept import writable
    from ..report import processor, versions

    problems: list[str] = []
    found: dict[str, Any] = {
        "versions": versions(),
        "system": {
            "platform": platform.platform(),
            "processor": processor(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        },
    }
    looks = {"devices": _devices, "readers": _readers, "models": _models, "prepared_networks": _networks}
    for name, look in looks.items():
        try:
            found[name] = look()
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
            problems.append(f"{name}: {found[name]}")
    if found["models"] == []:
        problems.append("models: none is installed; install palyno again")
    elif isinstance(found["models"], list):
        problems += [f"model {m['name']}: {m['status']}" for m in found["models"] if m.get("status", "ok") != "ok"]
    networks = found["prepared_networks"]
    if isinstance(networks, dict) and networks["models"] and not any(row["runtime"] for row in networks["models"]):
        problems.append(f"no model can be run on a CPU: {networks['reason'] or networks['models'][0]['says']}")
    cache = cache_dir()
    found["cache"] = {"path": str(cache), "writable": writable(cache)}
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


def _networks() -> dict[str, Any]:
    """What a CPU will run the shipped weights in, and the exports that are kept for it; in words under `says`."""
    from ...vision.network import choose_device
    from ...vision.runtimes.kept import look
    from ...vision.weights import shipped_models

    found = look({name: entry.sha256 for name, entry in shipped_models().items() if entry.kind == "detector"})
    general = found.reason if found.asked != "torch" else None
    rows = []
    for outlook in found.models:
        kept = outlook.kept
        rows.append(
            {
                "model": outlook.model,
                "state": outlook.state,
                "runtime": outlook.runtime,
                "file": str(kept.path) if kept else None,
                "bytes": kept.bytes if kept else None,
                "sha256": kept.sha256 if kept else None,
                "whole": kept.whole if kept else None,
                "says": _outlook(outlook, found),
            }
        )
    damaged = [kept for kept in found.files if not kept.whole]
    says = [row["says"] for row in rows]
    if (device := choose_device("auto")).type != "cpu":
        says.append(f"With --device auto PyTorch runs all of them on {device.type}; the above is for --device cpu.")
    says.append(_files(found))
    says += [
        f"{kept.path} is damaged, and no model of this version takes it: delete it."
        for kept in damaged
        if kept in found.others
    ]
    if general is not None:
        instead = "" if found.asked == "auto" else "; or unset PALYNO_RUNTIME, and PyTorch runs them"
        says.append(f"No prepared network can be run: {general}{instead}.")
    return {
        "asked": found.asked,
        "folder": None if found.folder is None else str(found.folder),
        "files": len(found.files),
        "bytes": sum(kept.bytes for kept in found.files),
        "whole": len(found.files) - len(damaged),
        "damaged": [str(kept.path) for kept in damaged],
        "others": len(found.others),
        "reason": general,
        "models": rows,
        "says": says,
    }


def _outlook(outlook: Outlook, found: Networks) -> str:
    """What runs a model on a CPU, and what to do where its network is not as it should be."""
    name, runtime, size = outlook.model, outlook.runtime, f"{outlook.kept.bytes / 1e6:.1f} MB" if outlook.kept else ""
    if outlook.state == "ready":
        return f"{name}: on a CPU {runtime} runs it; its prepared network is here and whole, {size}."
    if outlook.state == "unprepared":
        rather = "" if found.asked == "onnxruntime" else ", and PyTorch runs it if it cannot be exported"
        return f"{name}: on a CPU {runtime} will run it; the first detection prepares it, once, in 10 to 20 s{rather}."
    if outlook.state == "damaged" and outlook.kept:
        return (
            f"{name}: its prepared network is damaged and will not be run ({outlook.kept.path}). Nothing has to be "
            f"done: the next detection on a CPU makes it again for {runtime}, in 10 to 20 s. If that happens more than "
            "once, have the disk checked."
        )
    if outlook.state == "unasked":
        return f"{name}: on a CPU {runtime} runs it, as PALYNO_RUNTIME asks."
    # What concerns all of them is told once.
    reason = "" if outlook.reason == found.reason else f": {outlook.reason}"
    if runtime is None:
        return f"{name}: nothing can run it on a CPU as long as PALYNO_RUNTIME asks for onnxruntime{reason}."
    return f"{name}: on a CPU {runtime} runs it, which is slower{reason}."


def _files(found: Networks) -> str:
    """How many prepared networks there are, how large, and whether they are whole."""
    from ...vision.runtimes.prepared import MOST_KEPT

    number, damaged = len(found.files), sum(not kept.whole for kept in found.files)
    if not number:
        return f"No network is prepared in {found.folder}."
    size = sum(kept.bytes for kept in found.files) / 1e6
    word = "network" if number == 1 else "networks"
    state = "all whole" if not damaged else f"{damaged} damaged"
    others = f"; {len(found.others)} of other models, versions or weights, which may be deleted" if found.others else ""
    others += f". The {MOST_KEPT} that were used last are kept" if number > MOST_KEPT // 2 else ""
    return f"{number} prepared {word} in {found.folder}, {size:.1f} MB, {state} by their hashes{others}."


def _show(found: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    # A hash must not be cut.
    table.add_column(overflow="fold")
    for section, content in found.items():
        if section == "problems":
            continue
        lines = content if isinstance(content, list) else [content]
        if isinstance(content, dict) and "says" in content:
            lines = content["says"]
        for number, line in enumerate(lines):
            text = ", ".join(f"{k} {v}" for k, v in line.items()) if isinstance(line, dict) else str(line)
            table.add_row(Text(section.replace("_", " ") if number == 0 else "", "bold"), Text(text))
    # As wide as the terminal; in a file as wide as it takes.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 150)
    console.print(table)
    for problem in found["problems"]:
        console.print(Text.assemble(("problem  ", "bold red"), problem))
    if not found["problems"]:
        console.print(Text("All that detection needs is here.", "green"))
