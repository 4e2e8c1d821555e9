"""ultralytics' data set, of the pictures and boxes that palyno reads.

ultralytics' own reading would follow links before it looks for labels, take lists of pictures to be relative to the
working directory, leave out pictures whose labels mix boxes and outlines, write a JPEG again that has bytes behind its
end, and keep what it read beside the labels as a pickle, which it loads again, whoever wrote it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ... import offline
from ...data.annotations.yolo import find_root, read_classes, read_yolo

offline.switch_off()
from ultralytics.data.dataset import YOLODataset  # noqa: E402

__all__ = ["LabelledPictures"]


class LabelledPictures(YOLODataset):
    """One split of a data set, every picture of it; an outline is its bounding box.

    Args:
        file: Its `data.yaml`.
        split: Name of the split.
        **arguments: ultralytics' own, but for the place of the pictures.
    """

    def __init__(self, file: Path, split: str, **arguments: Any):
        self._classes, root = read_classes(file), find_root(file)
        self._images = dict(sorted((str(root / image.image), image) for image in read_yolo(file, split=split)))
        super().__init__(img_path=str(file), **arguments)

    def get_img_files(self, img_path: str | list[str]) -> list[str]:
        """The pictures, in the order of their paths."""
        return list(self._images)

    def get_labels(self) -> list[dict[str, Any]]:
        """Their boxes: centre and sides as shares of the picture."""
        number = {name: i for i, name in enumerate(self._classes)}
        labels = []
        for file, image in self._images.items():
            low, high = image.boxes[:, :2], image.boxes[:, 2:]
            shares = np.hstack([(low + high) / 2, high - low]) / np.tile([image.width, image.height], 2)
            labels.append(
                {
                    "im_file": file,
                    "shape": (image.height, image.width),
                    "cls": np.array([number[label] for label in image.labels], np.float32).reshape(-1, 1),
                    "bboxes": shares.astype(np.float32),
                    "segments": [],
                    "keypoints": None,
                    "normalized": True,
                    "bbox_format": "xywh",
                }
            )
        return labels
