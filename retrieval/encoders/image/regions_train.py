"""Training of the head on a detector's maps: grains in windows of the detector's kind, all on the device.

    train_regions(GrainSet.load("grains.npz"), RegionSettings(out=Path("run"), detector="weights.safetensors"))

The detector stays as it is; what its head is given is read, whatever its body, so ours and ultralytics' own will do.
"""

from __future__ import annotations

import copy
import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ....errors import InputError, UsageError
from ....vision.maps import kept_maps
from ....vision.network import choose_device
from ....vision.weights import find_model, load_weights
from .augment import Augmentation, restain
from .evaluate import hits_at
from .grains import CLEAR, FILL, GrainSet
from .losses import LOSSES, build_loss
from .pixels import LUMA, density
from .regions import RegionHead, pool_regions, squares
from .weights import write_encoder

__all__ = ["Maps", "RegionSettings", "embed_regions", "maps_of", "recall_of_regions", "train_regions", "windows"]

Maps = Callable[[torch.Tensor], Sequence[torch.Tensor]]
"""Light, float32 (B, 3, H, W) in [0, 1], to the maps that a detector's head is given, float32 (B, C, H, W) each."""

_LOG = ("step", "seconds", "lr", "loss")
_LOG_EVERY = 100


@dataclass(frozen=True, kw_only=True)
class RegionSettings:
    """How a region head is trained.

    Attributes:
        out: Folder of the weights.
        name: Their name.
        detector: Name or file of the detector whose maps it reads.
        loss: Of `palyno.retrieval.encoders.image.losses.LOSSES`.
        dim: Length of the vectors.
        window: Side of the training windows in pixels.
        grain_px: Smallest and largest grain in them.
        steps: Batches.
        seconds: Time budget; ends training at what comes first.
        batch: Windows a step.
        per_taxon: Windows of one taxon in a batch.
        lr: Peak learning rate.
        grey: Share of windows without colour.
        device: auto, cpu, cuda, cuda:N or mps.
        seed: Of weights and pictures.
    """

    out: Path
    name: str = "grain-regions"
    detector: str = "hieraedge-n"
    loss: str = "cosine-margin"
    dim: int = 192
    window: int = 192
    grain_px: tuple[float, float] = (56.0, 150.0)
    steps: int = 3000
    seconds: float | None = None
    batch: int = 292
    per_taxon: int = 4
    lr: float = 2e-3
    grey: float = 0.5
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("loss", self.loss in LOSSES, f"one of {', '.join(LOSSES)}"),
            ("dim", self.dim >= 1, "1 or more"),
            ("window", self.window >= 64 and self.window % 32 == 0, "a multiple of 32 from 64"),
            ("grain_px", 8 <= self.grain_px[0] <= self.grain_px[1] <= self.window, "smallest and largest, 8 to window"),
            ("steps", self.steps >= 1, "1 or more"),
            ("seconds", self.seconds is None or self.seconds > 0, "above 0"),
            ("per_taxon", 2 <= self.per_taxon <= self.batch, "2 to the batch: a loss compares grains of one taxon"),
            ("lr", self.lr > 0, "above 0"),
            ("grey", 0 <= self.grey <= 1, "0 to 1"),
        ):
            if not valid:
                raise UsageError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

    def plain(self) -> dict[str, Any]:
        """The settings as plain values, without where and on what it ran."""
        left_out = ("out", "device", "detector")
        return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(self).items() if k not in left_out}


def windows(
    pixels: torch.Tensor, side: int, grain_px: tuple[float, float], grey: float, rng: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Windows with one whole grain each, another beside some.

    Args:
        pixels: uint8, (B, S, S, 3), see `GrainSet`.
        side: Of the windows.
        grain_px: Smallest and largest longer side of a grain in pixels.
        grey: Share of windows without colour.
        rng: On the device of the pixels.

    Returns:
        Light, float32 (B, 3, side, side) in [0, 1]; and boxes `xyxy` (B, 4), about as exact as the detector's.
    """
    n, device = len(pixels), pixels.device

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=rng, device=device)

    dyes = density(restain(pixels, Augmentation(), rng))
    luma = density((torch.exp(-dyes) * dyes.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True))
    dyes = torch.where(uniform(n, 1, 1, 1) < grey, luma, dyes)
    low, high = math.log(grain_px[0]), math.log(grain_px[1])
    size = torch.exp(low + (high - low) * uniform(n))
    angle, flip = 2 * math.pi * uniform(n), torch.where(uniform(n) < 0.5, -1.0, 1.0)
    # A frame k times as wide as the canvas shows the grain at 1 / k of its size there.
    k = FILL * side / size
    room = (side - size).clamp(min=0) / side
    shift = (2 * uniform(2, n) - 1) * room

    def draw(source: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        c, s = torch.cos(angle) * k, torch.sin(angle) * k
        # Middle of the grain at (x, y) of the window: the frame's origin is its image under the same turn.
        move = [-(c * flip * x - s * y), -(s * flip * x + c * y)]
        rows = [torch.stack([c * flip, -s, move[0]], 1), torch.stack([s * flip, c, move[1]], 1)]
        grid = functional.affine_grid(torch.stack(rows, 1), [n, 3, side, side], align_corners=False)
        fine = functional.grid_sample(source, grid, align_corners=False)
        coarse = functional.grid_sample(functional.avg_pool2d(source, 2), grid, align_corners=False)
        return torch.where((size < 90).view(n, 1, 1, 1), coarse, fine)

    picture = draw(dyes, shift[0], shift[1])
    bearing, reach = 2 * math.pi * uniform(n), (0.95 + 0.4 * uniform(n)) * 2 * size / side
    other = draw(dyes.roll(1, 0), shift[0] + reach * torch.cos(bearing), shift[1] + reach * torch.sin(bearing))
    picture = picture + other * (uniform(n, 1, 1, 1) < 0.3)
    level = (0.72 + 0.25 * uniform(n, 1, 1, 1)) * (1 + 0.04 * torch.randn((n, 3, 1, 1), generator=rng, device=device))
    light = torch.exp(-picture) * level
    light = light + 0.02 * uniform(n, 1, 1, 1) * torch.randn(light.shape, generator=rng, device=device)
    middle = (torch.stack([shift[0], shift[1]], 1) + 1) * side / 2 + (uniform(n, 2) - 0.5) * 0.06 * size[:, None]
    half = (size * (0.94 + 0.12 * uniform(n)) / 2)[:, None]
    return light.clamp(0, 1), torch.cat([middle - half, middle + half], 1)


def maps_of(model: Any) -> Maps:
    """What gives a detector's maps for light; on a GPU it computes in bf16.

    Args:
        model: A network of `palyno.vision.models` on its device, in evaluation mode.
    """
    from ....vision.models.graph import Body

    # Of our own networks the body alone: the head's answer is not needed.
    body = model.model[0] if isinstance(model.model[0], Body) else None

    def read(light: torch.Tensor) -> list[torch.Tensor]:
        cuda = light.device.type == "cuda"
        with torch.inference_mode(), torch.autocast(light.device.type, torch.bfloat16, enabled=cuda):
            if body is not None:
                maps = body(light)
            else:
                with kept_maps(model) as maps:
                    model(light)
        # Copies: what inference mode made cannot be learned from.
        return [level.float().clone() for level in maps]

    return read


@torch.no_grad()
def embed_regions(
    maps: Maps,
    head: RegionHead,
    pixels: torch.Tensor,
    *,
    side: int = 192,
    grain_px: float = 110.0,
    turns: int = 4,
    grey: bool = True,
    batch: int = 128,
) -> torch.Tensor:
    """Vectors of cut grains through the detector, the mean over turns of the window by quarters (and mirrored).

    Args:
        maps: The detector's.
        head: The head, in evaluation mode.
        pixels: uint8, (N, S, S, 3), see `GrainSet`.
        side: Of the windows.
        grain_px: Longer side of the grains in them.
        turns: Quarter turns, 1 to 4; each also mirrored if 4.
        grey: Remove colour.
        batch: Windows at once.

    Returns:
        float32, (N, dim), unit length.
    """
    found = [pixels.new_empty((0, head.dim), dtype=torch.float32)]
    for part in pixels.split(batch):
        light = part.permute(0, 3, 1, 2).float() / CLEAR
        if grey:
            light = (light * light.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True).expand(-1, 3, -1, -1)
        inner = round(grain_px / FILL)
        small = functional.interpolate(light, (inner, inner), mode="bilinear", antialias=True, align_corners=False)
        before = (side - inner) // 2
        framed = functional.pad(small, (before, side - inner - before) * 2, value=1.0) * 0.9
        half = grain_px / 2
        box = framed.new_tensor([side / 2 - half, side / 2 - half, side / 2 + half, side / 2 + half])
        boxes = squares(box.expand(len(part), 4))
        total: Any = 0.0
        for mirrored in (False, True)[: 1 + (turns >= 4)]:
            for quarter in range(turns):
                seen = torch.rot90(framed.flip(3) if mirrored else framed, quarter, (2, 3)).clamp(0, 1)
                of = torch.arange(len(part), device=part.device)
                total = total + head(pool_regions(maps(seen), boxes, of, (side, side)))
        found.append(functional.normalize(total, dim=1))
    return torch.cat(found)


def recall_of_regions(maps: Maps, head: RegionHead, gallery: GrainSet, queries: GrainSet) -> dict[str, Any]:
    """Recall@1: of how many queries the nearest grain of the gallery is of their taxon, without colour and with it."""
    device = next(head.parameters()).device
    found: dict[str, Any] = {"queries": len(queries), "gallery": len(gallery)}
    for name, grey in (("grey", True), ("colour", False)):
        known, asked = (
            embed_regions(maps, head, torch.from_numpy(grains.pixels).to(device), grey=grey).cpu().numpy()
            for grains in (gallery, queries)
        )
        found[name] = round(float(hits_at(asked, known, queries.taxa, gallery.taxa).mean()), 4)
    return found


def train_regions(grains: GrainSet, settings: RegionSettings, queries: GrainSet | None = None) -> Path:
    """Trains a head on grains and writes its weights, which name the detector that they are for; and `log.csv`.

    Args:
        grains: What it learns from.
        settings: How.
        queries: Grains that are looked up among these at the end; the recall is kept in the weights.

    Returns:
        The weights file.

    Raises:
        InputError: Fewer than two taxa.
    """
    s = settings
    device = choose_device(s.device)
    torch.manual_seed(s.seed)
    names = sorted(set(grains.taxa))
    if len(names) < 2:
        raise InputError(f"expected grains of two taxa or more, got {len(names)}")
    path, shipped = find_model(s.detector)
    model, about = load_weights(path, shipped=shipped)
    maps = maps_of(model.to(device).eval().requires_grad_(False))
    taxa = np.asarray(grains.taxa)
    members = [np.flatnonzero(taxa == name) for name in names]
    pixels = torch.from_numpy(grains.pixels).to(device)
    widths = [level.shape[1] for level in maps(torch.zeros(1, 3, s.window, s.window, device=device))]
    head = RegionHead(sum(widths), s.dim).to(device)
    mean = copy.deepcopy(head).eval()
    loss_of = build_loss(s.loss, s.dim, len(names)).to(device)
    optimiser = torch.optim.AdamW([*head.parameters(), *loss_of.parameters()], lr=s.lr, weight_decay=0.02)
    begun, step = time.monotonic(), 0
    s.out.mkdir(parents=True, exist_ok=True)
    with (s.out / "log.csv").open("w", newline="", encoding="utf-8") as file:
        log = csv.writer(file)
        log.writerow(_LOG)
        while True:
            spent = time.monotonic() - begun
            done = max(step / s.steps, spent / s.seconds if s.seconds else 0.0)
            if done >= 1:
                break
            lr = s.lr * min(1.0, (done + 1 / s.steps) / 0.05) * 0.5 * (1 + math.cos(math.pi * done))
            for group in optimiser.param_groups:
                group["lr"] = lr
            at, labels = _draw(members, s, step)
            rng = torch.Generator(device).manual_seed(s.seed * 1_000_003 + step)
            light, boxes = windows(pixels[torch.from_numpy(at).to(device)], s.window, s.grain_px, s.grey, rng)
            of = torch.arange(len(light), device=device)
            pooled = pool_regions(maps(light), squares(boxes), of, (s.window, s.window))
            head.train()
            loss = loss_of(head(pooled), torch.from_numpy(labels).to(device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            step += 1
            _average(mean, head, min(0.998, step / (step + 10)))
            if step % _LOG_EVERY == 0:
                log.writerow([step, f"{time.monotonic() - begun:.1f}", f"{lr:.2e}", f"{float(loss.detach()):.4f}"])
                file.flush()
    training: dict[str, Any] = {
        "settings": s.plain(),
        "steps": step,
        "seconds": round(time.monotonic() - begun, 1),
        "grains": len(grains),
        "taxa": names,
        "recall_at_1": None if queries is None else recall_of_regions(maps, mean, grains, queries),
    }
    return write_encoder(
        s.out / f"{s.name}.safetensors",
        mean,
        format="palyno-region-encoder-1",
        name=s.name,
        config={
            "dim": s.dim,
            "width": mean.width,
            "widths": widths,
            "detector": about.name,
            "detector_sha256": about.sha256,
        },
        training=training,
    )


def _draw(members: Sequence[np.ndarray], s: RegionSettings, step: int) -> tuple[np.ndarray, np.ndarray]:
    """A batch: indices of grains and their labels, `per_taxon` of each taxon drawn."""
    rng = np.random.default_rng([s.seed, step])
    chosen = rng.permutation(len(members))[: max(2, s.batch // s.per_taxon)]
    at = [rng.choice(members[t], s.per_taxon, replace=len(members[t]) < s.per_taxon) for t in chosen]
    return np.concatenate(at), np.repeat(chosen, s.per_taxon)


@torch.no_grad()
def _average(mean: RegionHead, head: RegionHead, keep: float) -> None:
    for old, new in zip(mean.state_dict().values(), head.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - keep)
