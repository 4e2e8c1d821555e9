"""Switches off every call home of the dependencies; imported before any of them.

ultralytics looks up DNS at import, fetches a font at plots, reports usage and installs missing packages; albumentations
asks for its newest version; Gradio and the hub clients report usage. palyno runs in laboratories without a network and
on other people's slides, so all of it is off. A variable the user has set is left alone.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

SWITCHES = {
    "YOLO_OFFLINE": "1",
    "YOLO_AUTOINSTALL": "0",
    "ULTRALYTICS_SKIP_REQUIREMENTS_CHECKS": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}


def cache_dir() -> Path:
    """The folder for what palyno may write outside its outputs: `$PALYNO_CACHE`, else `~/.cache/palyno`."""
    root = os.environ.get("PALYNO_CACHE")
    return Path(root) if root else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "palyno"


def switch_off() -> None:
    """Sets the switches for this process and its children; call before importing a dependency that has any."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("YOLO_CONFIG_DIR", str(cache_dir()))
    logging.getLogger("ultralytics").addFilter(_not_of_settings)


def _not_of_settings(record: logging.LogRecord) -> bool:
    """All but what ultralytics tells at its first import, on stdout, where `--json` goes: that it made settings."""
    return not str(record.msg).startswith("Creating new Ultralytics Settings")


def provide_fonts() -> None:
    """Puts a font under the names that ultralytics would otherwise download when it draws or checks a data set."""
    import shutil

    import matplotlib

    folder = Path(os.environ.get("YOLO_CONFIG_DIR", cache_dir())) / "Ultralytics"
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    for name in ("Arial.ttf", "Arial.Unicode.ttf"):
        if not (folder / name).exists():
            shutil.copyfile(source, folder / name)
