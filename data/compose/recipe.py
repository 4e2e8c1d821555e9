"""What a composed data set is made of and how much of it there is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..scene import SceneSettings
from .hardness import Hardness

__all__ = ["Recipe"]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what `compose_dataset` writes.

    Attributes:
        reference: Folder with one folder of training pictures a taxon.
        test_reference: The same with pictures that are never trained on; None makes no test split.
        fields: Folders of real fields that backgrounds are taken from where they are clean.
        debris_fields: Folders of real fields with every grain marked; all else in them is background.
        labelled_fields: Folder of labelled fields whose tiles join the data set.
        labelled_class: Class of the boxes in `labelled_fields`.
        field_splits: CSV (`file, split`) that says which labelled field belongs where.
        scenes: Scenes a split.
        tile_repeats: How often each labelled training field is cut into tiles, each time at another scale.
        val_share: Share of each taxon's training pictures that only validation scenes use.
        unknown: Taxa labelled `unknown`, a split each; chosen by `choose_unknown` when None.
        seed: Decides everything random.
        scene: What scenes look like.
        hardness: Set hard pictures into training scenes more often, see `hardness`; None sets all alike.
    """

    reference: Path
    test_reference: Path | None = None
    fields: tuple[Path, ...] = ()
    debris_fields: tuple[Path, ...] = ()
    labelled_fields: Path | None = None
    labelled_class: str = "Oryza"
    field_splits: Path | None = None
    scenes: dict[str, int] = field(default_factory=lambda: {"train": 4000, "val": 300, "test": 400})
    tile_repeats: int = 2
    val_share: float = 0.08
    unknown: dict[str, tuple[str, ...]] | None = None
    seed: int = 0
    scene: SceneSettings = field(default_factory=SceneSettings)
    hardness: Hardness | None = None
