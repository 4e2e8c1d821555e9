"""When two boxes of one tile are one grain: the default of `--iou`, which everything that counts takes from here.

A network answers several times for a grain. Of two boxes whose intersection over union is above the limit, the less
sure one is dropped. What the limit was chosen on: docs/counting.md. Imports nothing, as the command line's help shows
it.
"""

from __future__ import annotations

__all__ = ["IOU", "PUBLISHED_IOU"]

IOU = 0.5

# ultralytics' own, which most published figures were read with. Comparisons beside its networks keep to it.
PUBLISHED_IOU = 0.7
