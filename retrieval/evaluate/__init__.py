"""How good an answer is, so that a reviewer can recompute the number.

- `formats`: BEIR and Multi-CPR data sets, TREC runs and judgements.
- `measures`: nDCG, recall, MRR, MAP, precision, hits and median rank, with trec_eval's treatment of ties.
- `significance`: intervals of means, paired tests, correction for several tests.
- `grounding`: overlap, contrast to noise and pointing game of what a phrase is said to show.
- `pollen`: the palynological test set that ships.
"""

from __future__ import annotations

from .formats import Document, Task, read_beir, read_multi_cpr, read_qrels, read_run, read_task, write_run
from .grounding import cnr, iou, iou_over_thresholds, iou_with_background, pointing_game
from .measures import Scores, evaluate, ranked
from .significance import Comparison, Interval, compare, holm, interval

__all__ = [
    "Comparison",
    "Document",
    "Interval",
    "Scores",
    "Task",
    "cnr",
    "compare",
    "evaluate",
    "holm",
    "interval",
    "iou",
    "iou_over_thresholds",
    "iou_with_background",
    "pointing_game",
    "ranked",
    "read_beir",
    "read_multi_cpr",
    "read_qrels",
    "read_run",
    "read_task",
    "write_run",
]
