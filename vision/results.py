"""What a detector found: `Grain` and `SlideResult`. Frozen, numpy only; torch is not needed to read them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.annotations import LabelledImage
from ..errors import UsageError

if TYPE_CHECKING:
    import pandas as pd
    import supervision as sv

    from ..data.counts import Tally

__all__ = ["Grain", "Provenance", "SlideResult", "runtime_on"]


def runtime_on(runtime: str | None, device: str | None) -> str:
    """What ran a network and where, such as `onnxruntime 1.32.0 on cpu`, as far as it is known."""
    return " on ".join(filter(None, (runtime, device)))


@dataclass(frozen=True)
class Provenance:
    """Where a result comes from: enough to make it again.

    Attributes:
        model: Name of the model.
        sha256: Hash of the weights file.
        version: Version of palyno.
        arguments: Every argument that can change the result.
        runtime: What ran the network, with its version, such as `onnxruntime 1.32.0`; empty where it is not known.
        device: Where it ran, such as `cpu` or `cuda:0`; empty where it is not known.
    """

    model: str
    sha256: str
    version: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    runtime: str = ""
    device: str = ""

    @property
    def ran(self) -> str:
        """What ran the network and where, see `runtime_on`."""
        return runtime_on(self.runtime, self.device)


@dataclass(frozen=True)
class Grain:
    """One pollen grain or spore found on a slide.

    Attributes:
        slide: Name of the slide.
        grain_id: Stays the same for the same slide, model and arguments.
        box: `xyxy`, pixels of the full-resolution level.
        taxon: Name at the most specific rank that the model is sure of.
        confidence: Probability that there is a grain, whatever its name, in [0, 1].
        rank: Rank of the name: species, genus, family or `unknown`.
        um_per_px: Micrometres a pixel; None where it is not known.
        flags: Warnings that concern this grain, such as `edge` (cut by the picture's border).
        candidates: The likeliest names with their probabilities, best first.
        vector: Float32, (dim,), of unit length, where the slide was read with vectors.
    """

    slide: str
    grain_id: str
    box: tuple[float, float, float, float]
    taxon: str
    confidence: float
    rank: str = "species"
    um_per_px: float | None = None
    flags: tuple[str, ...] = ()
    candidates: tuple[tuple[str, float], ...] = ()
    vector: np.ndarray | None = field(default=None, compare=False, repr=False)

    @property
    def width_um(self) -> float | None:
        """Width of the box in micrometres, where the pixel size is known."""
        return None if self.um_per_px is None else (self.box[2] - self.box[0]) * self.um_per_px

    @property
    def height_um(self) -> float | None:
        """Height of the box in micrometres, where the pixel size is known."""
        return None if self.um_per_px is None else (self.box[3] - self.box[1]) * self.um_per_px


@dataclass(frozen=True)
class SlideResult:
    """All grains of one slide, in reading order (by y, then x).

    Attributes:
        slide: Name of the slide.
        width: Pixels of the full-resolution level.
        height: Pixels of the full-resolution level.
        boxes: `xyxy`, float32, shape (N, 4).
        confidence: float32, shape (N,).
        taxa: N names.
        provenance: Model, hash, version, arguments, and what ran the network where.
        ranks: N ranks, `species` where not given.
        candidates: For each grain its likeliest names with probabilities.
        um_per_px: Micrometres a pixel, or None.
        um_source: Where the pixel size came from: `metadata`, `caller` or None.
        flags: Warnings that concern the whole slide, such as `saturated`.
        grain_flags: For each grain its warnings.
        notes: What was decided in reading the file and the user should know, such as which plane of a focus stack was
            taken, what 16 bits were shown as, or that the caller's pixel size is not the file's.
        fraction_read: Share of the slide's area that was read, in [0, 1].
        unread: Regions `(x1, y1, x2, y2)` that could not be read.
        conf: The lowest confidence that was kept.
        vectors: Of each grain a vector of unit length, float32, (N, dim), where the slide was read with vectors.
        encoder_id: What made them; vectors of two encoders do not compare.
    """

    slide: str
    width: int
    height: int
    boxes: np.ndarray
    confidence: np.ndarray
    taxa: tuple[str, ...]
    provenance: Provenance
    ranks: tuple[str, ...] = ()
    candidates: tuple[tuple[tuple[str, float], ...], ...] = ()
    um_per_px: float | None = None
    um_source: str | None = None
    flags: tuple[str, ...] = ()
    grain_flags: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()
    fraction_read: float = 1.0
    unread: tuple[tuple[int, int, int, int], ...] = ()
    conf: float = 0.0
    vectors: np.ndarray | None = None
    encoder_id: str | None = None

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, dtype=np.float32).reshape(-1, 4)
        confidence = np.asarray(self.confidence, dtype=np.float32).reshape(-1)
        n = len(boxes)
        for name, value in (
            ("boxes", boxes),
            ("confidence", confidence),
            ("taxa", tuple(self.taxa)),
            ("ranks", tuple(self.ranks) or ("species",) * n),
            ("candidates", tuple(self.candidates) or ((),) * n),
            ("grain_flags", tuple(self.grain_flags) or ((),) * n),
        ):
            object.__setattr__(self, name, value)
            if len(value) != n:
                raise UsageError(f"{name} must have one entry a box: expected {n}, got {len(value)}")
        for array in (boxes, confidence):
            array.setflags(write=False)
        if (self.vectors is None) != (self.encoder_id is None):
            raise UsageError("vectors and encoder_id: expected both or neither, as a vector means nothing by itself")
        if self.vectors is not None:
            vectors = np.asarray(self.vectors, dtype=np.float32)
            if vectors.ndim != 2 or len(vectors) != n:
                raise UsageError(f"vectors must have one row a box: expected ({n}, dim), got {vectors.shape}")
            vectors.setflags(write=False)
            object.__setattr__(self, "vectors", vectors)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: int) -> Grain:
        index = range(len(self))[index]
        x1, y1, x2, y2 = self.boxes[index].tolist()
        return Grain(
            slide=self.slide,
            grain_id=self.grain_ids[index],
            box=(x1, y1, x2, y2),
            taxon=self.taxa[index],
            confidence=float(self.confidence[index]),
            rank=self.ranks[index],
            um_per_px=self.um_per_px,
            flags=self.grain_flags[index],
            candidates=self.candidates[index],
            vector=None if self.vectors is None else self.vectors[index],
        )

    def __iter__(self) -> Iterator[Grain]:
        return (self[i] for i in range(len(self)))

    @cached_property
    def grain_ids(self) -> tuple[str, ...]:
        """Identifiers, `0001` upwards in reading order."""
        width = max(4, len(str(len(self))))
        return tuple(f"{i + 1:0{width}d}" for i in range(len(self)))

    def select(self, keep: np.ndarray | Sequence[int]) -> SlideResult:
        """The result with only some grains.

        Args:
            keep: Boolean mask of N, or indices.
        """
        chosen = np.asarray(keep)
        indices = np.arange(len(self))[chosen if chosen.size else chosen.astype(int)]
        return replace(
            self,
            boxes=self.boxes[indices].copy(),
            confidence=self.confidence[indices].copy(),
            taxa=tuple(self.taxa[i] for i in indices),
            ranks=tuple(self.ranks[i] for i in indices),
            candidates=tuple(self.candidates[i] for i in indices),
            grain_flags=tuple(self.grain_flags[i] for i in indices),
            vectors=None if self.vectors is None else self.vectors[indices].copy(),
        )

    def above(self, conf: float) -> SlideResult:
        """The grains with at least this confidence: what `detect(conf=...)` itself would have returned.

        Raises:
            UsageError: `conf` is below the threshold that the slide was read with.
        """
        if conf < self.conf:
            raise UsageError(
                f"the slide was read with conf {self.conf}: expected at least that, got {conf}; detect again"
            )
        arguments = {**self.provenance.arguments, "conf": float(conf)}
        kept = self.select(self.confidence >= np.float32(conf))
        return replace(kept, conf=conf, provenance=replace(self.provenance, arguments=arguments))

    def counts(self, rank: str | None = None, level: float = 0.95) -> list[Tally]:
        """Grains per taxon with Wilson intervals.

        Args:
            rank: Roll names up to `genus` or `family`; None keeps the names as found, but for those that mean the same
                (`Poaceae sp.` and `Poaceae`): see `data.taxa.counted_as`.
            level: Confidence level of the intervals.

        Returns:
            One `Tally` a taxon, most frequent first.
        """
        from ..data.counts import tally
        from ..data.taxa import counted_as, roll_up

        names = self.taxa if rank is None else [roll_up(name, rank) for name in self.taxa]
        return tally(map(counted_as, names), level=level)

    def to_annotations(self) -> LabelledImage:
        """The boxes as a `LabelledImage`, which every annotation writer takes."""
        measurements = {}
        if self.um_per_px is not None:
            size = (self.boxes[:, 2:] - self.boxes[:, :2]) * self.um_per_px
            measurements = {"width_um": size[:, 0], "height_um": size[:, 1]}
        return LabelledImage(
            image=self.slide,
            width=self.width,
            height=self.height,
            boxes=self.boxes,
            labels=self.taxa,
            confidence=self.confidence,
            ids=self.grain_ids,
            measurements=measurements,
        )

    def to_dataframe(self) -> pd.DataFrame:
        """One row a grain, with the columns of `grains.csv`; a size that is not known is NaN."""
        import pandas as pd

        from ..data.annotations.csv import GRAIN_COLUMNS, NUMBER_COLUMNS, grain_rows

        frame = pd.DataFrame(grain_rows(self), columns=GRAIN_COLUMNS)
        return frame.astype(dict.fromkeys(NUMBER_COLUMNS, float))

    def to_supervision(self) -> sv.Detections:
        """The boxes as `supervision.Detections`, with names in `data["class_name"]`."""
        import supervision as sv

        names = sorted(set(self.taxa))
        return sv.Detections(
            xyxy=self.boxes.copy(),
            confidence=self.confidence.copy(),
            class_id=np.array([names.index(t) for t in self.taxa], dtype=int),
            data={"class_name": np.array(self.taxa, dtype=object)},
        )

    def save(self, out: str | Path, formats: Sequence[str] = ("csv",), *, overwrite: bool = False) -> list[Path]:
        """Writes the result in the given formats.

        Args:
            out: Folder, made if missing.
            formats: Any of csv, parquet, coco, geojson, labelstudio, yolo.
            overwrite: Replace files that are there.

        Returns:
            The files written.
        """
        from ..data.annotations.writers import write_results

        return write_results([self], Path(out), formats, overwrite=overwrite)
