"""When two boxes of one tile are one grain: the default of `--iou`, which everything that counts takes from here.

A network answers several times for a grain. Of two boxes whose intersection over union is above the limit, the less
sure one is dropped. What another limit does to counts: docs/counting.md. Imports nothing, as the command line's help
shows it.
"""

from __future__ import annotations

__all__ = ["IOU"]

# ultralytics' own too, which published figures are read with.
IOU = 0.7
