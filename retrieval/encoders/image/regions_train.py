"""Training of the head on the detector's features: grains in windows of the detector's kind, all on the device."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from ....vision.network import choose_device
from ....vision.weights import find_model, load_weights
from .augment import Augmentation, restain
from .grains import CLEAR, FILL, GrainSet
from .losses import build_loss
from .pixels import LUMA, density
from .regions import RegionHead, pool_regions, squares
from .weights import write_encoder

__all__ = ["RegionSettings", "embed_regions", "train_regions", "windows"]


@dataclass(frozen=True, kw_only=True)
class RegionSettings:
    """How a region head is trained.

    Attributes:
        out: Folder of the weights.
        name: Their name.
        detector: Name or file of the detector whose features it reads.
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


def _maps(body: torch.nn.Module, light: torch.Tensor) -> Sequence[torch.Tensor]:
    with torch.inference_mode(), torch.autocast(light.device.type, torch.bfloat16, enabled=light.is_cuda):
        maps = body(light)
    return [m.float().clone() for m in maps]


@torch.no_grad()
def embed_regions(
    body: torch.nn.Module,
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
        body: The detector's body, in evaluation mode.
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
                total = total + head(pool_regions(_maps(body, seen), boxes, of, (side, side)))
        found.append(functional.normalize(total, dim=1))
    return torch.cat(found)


def train_regions(grains: GrainSet, settings: RegionSettings) -> Path:
    """Trains a head on grains and writes its weights.

    Args:
        grains: What it learns from.
        settings: How.

    Returns:
        The weights file.
    """
    s = settings
    device = choose_device(s.device)
    torch.manual_seed(s.seed)
    path, shipped = find_model(s.detector)
    model, about = load_weights(path, shipped=shipped)
    body = model.model[0].to(device).eval()
    names = sorted(set(grains.taxa))
    taxa = np.asarray(grains.taxa)
    members = [np.flatnonzero(taxa == name) for name in names]
    pixels = torch.from_numpy(grains.pixels).to(device)
    channels = sum(m.shape[1] for m in _maps(body, torch.zeros(1, 3, s.window, s.window, device=device)))
    head = RegionHead(channels, s.dim).to(device)
    mean = copy.deepcopy(head).eval()
    loss_of = build_loss(s.loss, s.dim, len(names)).to(device)
    optimiser = torch.optim.AdamW([*head.parameters(), *loss_of.parameters()], lr=s.lr, weight_decay=0.02)
    begun, step = time.monotonic(), 0
    while True:
        spent = time.monotonic() - begun
        done = max(step / s.steps, spent / s.seconds if s.seconds else 0.0)
        if done >= 1:
            break
        for group in optimiser.param_groups:
            group["lr"] = s.lr * min(1.0, (done + 1 / s.steps) / 0.05) * 0.5 * (1 + math.cos(math.pi * done))
        draw = np.random.default_rng([s.seed, step])
        chosen = draw.permutation(len(names))[: max(2, s.batch // s.per_taxon)]
        at = np.concatenate(
            [draw.choice(members[t], s.per_taxon, replace=len(members[t]) < s.per_taxon) for t in chosen]
        )
        labels = torch.from_numpy(np.repeat(chosen, s.per_taxon)).to(device)
        rng = torch.Generator(device).manual_seed(s.seed * 1_000_003 + step)
        light, boxes = windows(pixels[torch.from_numpy(at).to(device)], s.window, s.grain_px, s.grey, rng)
        pooled = pool_regions(
            _maps(body, light), squares(boxes), torch.arange(len(light), device=device), (s.window, s.window)
        )
        head.train()
        loss = loss_of(head(pooled), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        step += 1
        keep = min(0.998, step / (step + 10))
        with torch.no_grad():
            for old, new in zip(mean.state_dict().values(), head.state_dict().values(), strict=True):
                if old.is_floating_point():
                    old.lerp_(new, 1 - keep)
    training: dict[str, Any] = {
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(s).items() if k not in ("out", "device")},
        "detector_sha256": about.sha256,
        "steps": step,
        "seconds": round(time.monotonic() - begun, 1),
        "grains": len(grains),
        "taxa": names,
    }
    s.out.mkdir(parents=True, exist_ok=True)
    return write_encoder(
        s.out / f"{s.name}.safetensors",
        mean,
        format="palyno-region-encoder-1",
        name=s.name,
        config={"channels": channels, "dim": s.dim, "width": 256},
        training=training,
    )
