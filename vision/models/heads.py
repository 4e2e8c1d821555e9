"""Detection heads after a body, by name: what they answer, how they are trained, and whether duplicates come out.

- `detect`: ultralytics' anchor-free head; several anchors answer for a grain, and suppression takes the others out.
- `one2one`: the same twice, as in YOLOv10 and YOLO26: one copy is trained with ten anchors a grain and teaches the
  body, the other with one a grain and is what answers. Nothing has to be taken out.
- `rtdetr`: RT-DETR's decoder (arXiv 2304.08069): 300 queries, of which training takes one a grain.

In eval mode each gives (B, 4 + classes, A), a box in pixels and a probability a class for each anchor or query.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ... import offline

offline.switch_off()
from ultralytics.nn.modules import Detect, RTDETRDecoder  # noqa: E402

__all__ = ["Decoder", "OneToOne", "in_pixels", "make_head"]


class OneToOne(Detect):
    """Two heads of which the one that gives one box a grain answers, for every anchor and with every class.

    ultralytics' own way, with `end2end` on, lists 300 pairs of anchor and class; a slide can hold more grains.

    Args:
        nc: Classes.
        reg_max: Bins of a side's distance.
        ch: Channels of the body's maps.
    """

    # Not ultralytics' switch: it would list pairs.
    end2end: Any = False
    cv2: Any
    cv3: Any

    def __init__(self, nc: int, reg_max: int, ch: Sequence[int]):
        super().__init__(nc, reg_max, True, tuple(ch))

    def forward(self, x: list[torch.Tensor]) -> Any:
        """The body's maps -> (B, 4 + classes, A) and what the losses need; in training the latter alone."""
        if self.training:
            return super().forward(x)
        answer = self.forward_head(x, **self.one2one)
        found = self._inference(answer)
        if self.export:
            return found
        return found, {"one2many": self.forward_head(x, **self.one2many), "one2one": answer}

    def fuse(self) -> None:
        """Drops the head that only teaches, for inference."""
        self.cv2 = self.cv3 = None


class Decoder(RTDETRDecoder):
    """RT-DETR's decoder, with boxes in pixels and every query with all its classes.

    Args:
        nc: Classes.
        ch: Channels of the body's maps.
        finest: Stride of the finest map.
    """

    def __init__(self, nc: int, ch: Sequence[int], finest: int = 8):
        super().__init__(nc, tuple(ch))
        self.finest = finest

    def forward(self, x: list[torch.Tensor], batch: dict[str, Any] | None = None) -> Any:
        """The body's maps -> (B, 4 + classes, queries) and what the loss needs; in training the latter alone.

        Args:
            x: The maps, finest first.
            batch: In training the true boxes, of which noisy copies are given to the decoder to set right.
        """
        made = super().forward(x, batch)
        if self.training:
            return made
        found, *raw = (made,) if self.export else made
        found = in_pixels(found, *(side * self.finest for side in x[0].shape[-2:]))
        return (found, *raw) if raw else found

    def postprocess(self, boxes: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Every query, where ultralytics lists the 300 surest pairs of query and class."""
        return torch.cat((boxes, scores), 2)


def in_pixels(found: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Boxes as shares of an image, (B, queries, 4 + classes) -> the same in its pixels, (B, 4 + classes, queries)."""
    # Stacked, not made of two numbers: a trace would keep the size that it was made with.
    sides = torch.stack([torch.as_tensor(side) for side in (width, height, width, height)]).to(found)
    return torch.cat((found[..., :4] * sides, found[..., 4:]), 2).transpose(1, 2)


def make_head(name: str, nc: int, reg_max: int, ch: Sequence[int]) -> Detect | Decoder:
    """A head with fresh weights; `name` is one of `palyno.vision.models.tables.HEADS`."""
    Detect.legacy = False  # A class attribute that older models set: it would change the head's layers.
    if name == "rtdetr":
        return Decoder(nc, ch)
    head = OneToOne(nc, reg_max, ch) if name == "one2one" else Detect(nc, reg_max, False, tuple(ch))
    head.stride = torch.tensor([8.0, 16.0, 32.0])
    head.bias_init()
    return head
