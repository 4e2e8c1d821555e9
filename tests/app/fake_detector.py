"""A detector without a network: grains follow from a slide's bytes. Run as a script it does a job with it, slowly."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

import numpy as np
from palyno.app import jobs
from palyno.data.slides import open_slide
from palyno.vision.results import Provenance, SlideResult

# A source edited while the tests run must not part a job from its continuation.
jobs.code_fingerprint = lambda: "tested"


class FakeDetector:
    name, sha256, classes, device = "fake", "f" * 64, ("Betula", "Alnus glutinosa", "Poaceae"), "cpu"

    def __init__(self, pause: float = 0.0, grains: int = 12) -> None:
        self.pause, self.grains, self.seen = pause, grains, []

    def detect(self, slide, *, conf, iou, tile, imgsz, overlap, um_per_px, views=1, name=None, on_tile=None):
        self.seen.append(Path(slide).name)
        with open_slide(slide, um_per_px=um_per_px) as opened:
            width, height, um, source = opened.width, opened.height, opened.um_per_px, opened.um_source
            opened.read(0, 0, width, height)
        seed = int.from_bytes(hashlib.sha256(Path(slide).read_bytes()).digest()[:4], "big")
        rng = np.random.default_rng(seed)
        for i in range(4):
            time.sleep(self.pause / 4)
            if on_tile:
                on_tile(i + 1, 4)
        confidence = rng.uniform(0, 1, self.grains).astype(np.float32)
        corner = rng.uniform(0, 0.7, (self.grains, 2)) * [width, height]
        boxes = np.hstack([corner, corner + rng.uniform(8, 20, (self.grains, 2))])
        order = np.lexsort((boxes[:, 0], boxes[:, 1]))
        keep = order[confidence[order] >= conf]
        taxa = [(*self.classes, "unknown")[i] for i in rng.integers(0, 4, self.grains)[keep]]
        return SlideResult(
            slide=name or Path(slide).name,
            width=width,
            height=height,
            boxes=boxes[keep],
            confidence=confidence[keep],
            taxa=taxa,
            provenance=Provenance(self.name, self.sha256, "0", {"conf": conf, "iou": iou}),
            candidates=[(("Betula", 0.1 + i / 97), ("Alnus glutinosa", 0.1)) for i in range(len(keep))],
            grain_flags=[("edge",) if i % 3 == 0 else () for i in range(len(keep))],
            um_per_px=um,
            um_source=source,
            conf=conf,
        )


if __name__ == "__main__":
    slides, out, pause = sys.argv[1:4]
    jobs.detect_slides([slides], out, jobs.DetectOptions(), detector=FakeDetector(float(pause)))
