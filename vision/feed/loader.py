"""What ultralytics' trainer reads instead of a `DataLoader`."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from .geometry import Placement, Spread, lay_out, paint
from .light import Light, vary
from .store import ImageStore

__all__ = ["DeviceLoader"]

Pixels = list[torch.Tensor]


class DeviceLoader:
    """Batches of augmented images, made on the device where the images lie.

    Every image is shown once an epoch, in an order and with changes that the seed and the epoch decide.

    Args:
        dataset: ultralytics' data set, for its `labels`; nothing else of it is used.
        size: Side of the images in pixels.
        batch: Images a batch; what is left over at the end of an epoch is left out.
        device: A GPU, in general.
        spread: How far images are moved.
        light: How much light varies.
        seed: Decides everything random.
        rank: Of this process among those that train together.
        world: How many these are; each reads its own share of the images.
        host: Keep the images in main memory; only their augmentation is the device's.

    Attributes:
        epoch: The next epoch's number; whoever resumes a run sets it.
    """

    num_workers = 0
    drop_last = True

    def __init__(
        self,
        dataset: Any,
        *,
        size: int,
        batch: int,
        device: torch.device | str,
        spread: Spread,
        light: Light,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        host: bool = False,
    ):
        self.dataset = dataset
        self.spread, self.light = spread, light
        labels = dataset.labels[rank::world]
        self.store = ImageStore.read(labels, size, device, host=host)
        # Of the smallest share: a process with a batch more than the others would wait for them without end.
        self._share = len(dataset.labels) // world
        self.batch_size = min(batch, self._share)
        self.sampler = self
        self.epoch = 0
        self._files = [str(label["im_file"]) for label in labels]
        self._seed = seed * world + rank

    def __len__(self) -> int:
        return self._share // self.batch_size

    def set_epoch(self, epoch: int) -> None:
        """Says which epoch comes next."""
        self.epoch = epoch

    def reset(self) -> None:
        """What ultralytics calls when it has ended the mosaics in the data set; here they end with it."""
        self.spread = replace(self.spread, mosaic=0.0)

    def close(self) -> None:
        """Nothing is open."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        generator = torch.Generator().manual_seed((self._seed << 20) + self.epoch)
        order = torch.randperm(len(self.store), generator=generator)
        seeds = torch.randint(2**62, (len(self),), generator=generator).tolist()
        self.epoch += 1
        drawn = zip(order.split(self.batch_size), seeds, strict=False)
        if not self.store.apart:
            yield from (self._batch(*self._draw(*one)) for one in drawn)
            return
        # The next batch's pixels are gathered while the device works on this one's.
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self._draw, *next(drawn))
            for one in drawn:
                now, ahead = ahead.result(), pool.submit(self._draw, *one)
                yield self._batch(*now)
            yield self._batch(*ahead.result())

    def _draw(self, chosen: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Generator, list[Placement], Pixels]:
        """What of a batch needs no device: where its images lie, and the pixels of their sources."""
        generator = torch.Generator().manual_seed(seed)
        panes = lay_out(len(self.store), chosen, self.store.pixels.shape[-1], self.spread, generator)
        return chosen, generator, panes, [self.store.gather(pane.sources) for pane in panes]

    def _batch(
        self, chosen: torch.Tensor, generator: torch.Generator, panes: list[Placement], pixels: Pixels
    ) -> dict[str, Any]:
        images, boxes, owners = paint(self.store, panes, pixels)
        # ultralytics' losses count on boxes in the order of their images.
        order = owners[:, 0].argsort(stable=True)
        boxes, owners = boxes[order], owners[order]
        images = vary(images, self.light, generator)
        size = images.shape[-1]
        centres, sides = (boxes[:, :2] + boxes[:, 2:]) / (2 * size), (boxes[:, 2:] - boxes[:, :2]) / size
        return {
            "img": (images * 255).round_().to(torch.uint8),
            "bboxes": torch.cat([centres, sides], 1),
            "batch_idx": owners[:, 0].float(),
            "cls": owners[:, 1:].float(),
            "im_file": [self._files[i] for i in chosen.tolist()],
        }
