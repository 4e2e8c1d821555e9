"""Training of the grain encoder. Everything stays on the device: the pictures, and the making of new ones from them.

    train_encoder(GrainSet.load("grains.npz"), EncoderSettings(out=Path("run"), device="cuda"))

writes `run/NAME.safetensors` (mean of the weights over the last steps), `run/log.csv` and `run/checkpoint.safetensors`,
from which `resume=True` goes on: every step draws from its number and the seed, so the pictures are the same as without
a break.
"""

from __future__ import annotations

import copy
import csv
import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ....data.atomic import replacing
from ....errors import InputError, UsageError
from ....vision.network import choose_device
from .augment import Augmentation, augment
from .evaluate import embed, hits_at
from .grains import GrainSet
from .losses import LOSSES, build_loss
from .network import GrainNet
from .weights import write_encoder

__all__ = ["EncoderSettings", "hold_out", "train_encoder"]

_LOG = ("step", "seconds", "lr", "loss", "recall_at_1")


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """How an encoder is trained.

    Attributes:
        out: Folder of the run.
        name: Name of the weights.
        loss: Of `LOSSES`.
        dim: Length of the vectors.
        widths: Channels of the network's stages.
        side: Side of its input in pixels.
        steps: Batches.
        seconds: Time budget; training ends, and the learning rate with it, at what comes first.
        batch: Pictures a batch.
        per_taxon: Pictures of one taxon in a batch.
        lr: Peak learning rate of AdamW; warm-up over the first 5 %, then a cosine to 0.
        weight_decay: Of the convolutions' and the projection's weights.
        average: Weight of the past in the running mean of the weights, which is what is kept.
        held_out: Grains of each taxon that are only for validation.
        trait_weight: Weight of a second task, naming the traits of `palyno.data.traits`; 0 for none.
        check_every: Steps between validations and checkpoints.
        augmentation: How strongly grains are changed.
        device: auto, cpu, cuda, cuda:N or mps.
        seed: Of the weights, the split and the pictures.
    """

    out: Path
    name: str = "grain-encoder"
    loss: str = "cosine-margin"
    dim: int = 192
    widths: tuple[int, ...] = (32, 64, 128, 256)
    side: int = 144
    steps: int = 6000
    seconds: float | None = None
    batch: int = 292
    per_taxon: int = 4
    lr: float = 2e-3
    weight_decay: float = 0.05
    average: float = 0.998
    held_out: int = 0
    trait_weight: float = 0.0
    check_every: int = 500
    augmentation: Augmentation = field(default_factory=Augmentation)
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("loss", self.loss in LOSSES, f"one of {', '.join(LOSSES)}"),
            ("dim", self.dim >= 1, "1 or more"),
            ("side", self.side >= 32, "32 or more"),
            ("steps", self.steps >= 1, "1 or more"),
            ("seconds", self.seconds is None or self.seconds > 0, "above 0"),
            ("per_taxon", 2 <= self.per_taxon <= self.batch, "2 to the batch: a loss compares grains of one taxon"),
            ("lr", self.lr > 0, "above 0"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("average", 0 <= self.average < 1, "0 to below 1"),
            ("held_out", self.held_out >= 0, "0 or more"),
            ("trait_weight", self.trait_weight >= 0, "0 or more"),
            ("check_every", self.check_every >= 1, "1 or more"),
        ):
            if not valid:
                raise UsageError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

    def plain(self) -> dict[str, Any]:
        """The settings as plain values, without where and on what it ran."""
        return {
            k: v for k, v in json.loads(json.dumps(asdict(self), default=str)).items() if k not in ("out", "device")
        }


def hold_out(grains: GrainSet, count: int, seed: int) -> np.ndarray:
    """Boolean, (N,): `count` grains of each taxon chosen by the seed; never all of a taxon."""
    chosen = np.zeros(len(grains), bool)
    taxa = np.asarray(grains.taxa)
    for i, taxon in enumerate(sorted(set(grains.taxa))):
        at = np.random.default_rng([seed, i]).permutation(np.flatnonzero(taxa == taxon))
        chosen[at[: min(count, len(at) - 1)]] = True
    return chosen


def train_encoder(grains: GrainSet, settings: EncoderSettings, *, resume: bool = False) -> Path:
    """Trains an encoder.

    Args:
        grains: What it learns from.
        settings: How.
        resume: Go on from the folder's checkpoint, if there is one.

    Returns:
        The weights file.

    Raises:
        InputError: Fewer than two taxa, or none with two grains to learn from.
        UsageError: The checkpoint is of other settings.
    """
    held = hold_out(grains, settings.held_out, settings.seed)
    run = _Run(grains.select(~held), settings)
    if resume:
        run.restore()
    val = grains.select(held)
    found: float | None = None
    settings.out.mkdir(parents=True, exist_ok=True)
    with (settings.out / "log.csv").open("a" if run.step else "w", newline="", encoding="utf-8") as file:
        log = csv.writer(file)
        if not run.step:
            log.writerow(_LOG)
        done = run.progress() >= 1
        while not done:
            loss, lr = run.learn()
            done = run.progress() >= 1
            if run.step % settings.check_every == 0 or done:
                found = run.recall(val) if len(val) else None
                shown = "" if found is None else f"{found:.4f}"
                log.writerow([run.step, f"{run.elapsed():.1f}", f"{lr:.2e}", f"{float(loss):.4f}", shown])
                file.flush()
                run.save()
    training = {
        "settings": settings.plain(),
        "steps": run.step,
        "grains": len(run.grains),
        "taxa": run.names,
        "held_out_recall_at_1": found,
    }
    config = {"dim": settings.dim, "widths": list(settings.widths), "side": settings.side}
    path = settings.out / f"{settings.name}.safetensors"
    return write_encoder(
        path, run.mean, format="palyno-grain-encoder-1", name=settings.name, config=config, training=training
    )


class _Run:
    """A training run: networks, optimiser, and how far it is."""

    def __init__(self, grains: GrainSet, settings: EncoderSettings):
        self.grains, self.settings = grains, settings
        self.names = sorted(set(grains.taxa))
        taxa = np.asarray(grains.taxa)
        self.members = [np.flatnonzero(taxa == name) for name in self.names]
        if len(self.names) < 2 or max(map(len, self.members)) < 2:
            raise InputError(
                f"expected grains of two taxa or more, some with several grains; got {len(self.names)} taxa"
            )
        self.device = choose_device(settings.device)
        torch.manual_seed(settings.seed)
        self.network = GrainNet(settings.dim, settings.widths).to(self.device).to(memory_format=torch.channels_last)
        self.mean = copy.deepcopy(self.network).eval()
        self.loss = build_loss(settings.loss, settings.dim, len(self.names)).to(self.device)
        self.traits = _TraitTask(settings.dim, self.names).to(self.device) if settings.trait_weight else None
        self.parts = nn.ModuleDict({"network": self.network, "mean": self.mean, "loss": self.loss})
        if self.traits is not None:
            self.parts["traits"] = self.traits
        learned = [p for part in (self.network, self.loss, self.traits) if part is not None for p in part.parameters()]
        groups = [
            {"params": [p for p in learned if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimiser = torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.98))
        self.pixels = torch.from_numpy(grains.pixels).to(self.device)
        self.step, self.spent, self.begun = 0, 0.0, time.monotonic()

    def elapsed(self) -> float:
        return self.spent + time.monotonic() - self.begun

    def progress(self) -> float:
        """How much of the run is done, 0 to 1 and beyond."""
        share = self.step / self.settings.steps
        return max(share, self.elapsed() / self.settings.seconds) if self.settings.seconds else share

    def learn(self) -> tuple[torch.Tensor, float]:
        """One step; its loss, and its learning rate."""
        s, done = self.settings, min(self.progress(), 1.0)
        lr = s.lr * min(1.0, (done + 1 / s.steps) / 0.05) * 0.5 * (1 + math.cos(math.pi * done))
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        at, labels = self._draw()
        rng = torch.Generator(self.device).manual_seed(s.seed * 1_000_003 + self.step)
        self.network.train()
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            pictures = augment(self.pixels[at], s.side, s.augmentation, rng).contiguous(
                memory_format=torch.channels_last
            )
            vectors = self.network(pictures)
        loss = self.loss(vectors, labels)
        if self.traits is not None:
            loss = loss + s.trait_weight * self.traits(vectors, labels)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimiser.step()
        self.step += 1
        self._average(min(s.average, self.step / (self.step + 10)))
        return loss.detach(), lr

    def _draw(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch: indices of grains and their labels, `per_taxon` of each taxon drawn."""
        s = self.settings
        rng = np.random.default_rng([s.seed, self.step])
        taxa = rng.permutation(len(self.names))[: max(2, s.batch // s.per_taxon)]
        at = [rng.choice(m, s.per_taxon, replace=len(m) < s.per_taxon) for m in (self.members[t] for t in taxa)]
        labels = np.repeat(taxa, s.per_taxon)
        return torch.from_numpy(np.concatenate(at)).to(self.device), torch.from_numpy(labels).to(self.device)

    @torch.no_grad()
    def _average(self, keep: float) -> None:
        mean, now = self.mean.state_dict(), self.network.state_dict()
        floats = [k for k, t in mean.items() if t.is_floating_point()]
        torch._foreach_lerp_([mean[k] for k in floats], [now[k] for k in floats], 1 - keep)

    def recall(self, val: GrainSet) -> float:
        """Recall@1 of held-out grains among those learned from, upright pictures only."""
        side = self.settings.side
        known = embed(self.mean, self.pixels, side, turns=4, mirror=False).cpu().numpy()
        asked = (
            embed(self.mean, torch.from_numpy(val.pixels).to(self.device), side, turns=4, mirror=False).cpu().numpy()
        )
        return float(hits_at(asked, known, val.taxa, self.grains.taxa).mean())

    def save(self) -> None:
        from safetensors.torch import save

        state = {f"part.{k}": t.contiguous() for k, t in self.parts.state_dict().items()}
        for i, entry in self.optimiser.state_dict()["state"].items():
            state |= {f"optimiser.{i}.{k}": t.contiguous() for k, t in entry.items()}
        said = {"step": self.step, "spent": self.elapsed(), "settings": self.settings.plain(), "taxa": self.names}
        with replacing(self.settings.out / "checkpoint.safetensors", "wb") as file:
            file.write(save({k: t.cpu().clone() for k, t in state.items()}, {"palyno": json.dumps(said)}))

    def restore(self) -> None:
        from safetensors import safe_open

        path = self.settings.out / "checkpoint.safetensors"
        if not path.is_file():
            return
        with safe_open(path, "pt") as file:
            said = json.loads(file.metadata()["palyno"])
            if said["settings"] != self.settings.plain() or said["taxa"] != self.names:
                raise UsageError(f"{path}: expected a checkpoint of the same settings and taxa; choose another folder")
            state = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dictionary
        self.parts.load_state_dict({k.removeprefix("part."): t for k, t in state.items() if k.startswith("part.")})
        moments: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in state.items():
            if key.startswith("optimiser."):
                _, i, name = key.split(".")
                moments.setdefault(int(i), {})[name] = tensor
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": moments})
        self.step, self.spent, self.begun = said["step"], said["spent"], time.monotonic()


class _TraitTask(nn.Module):
    """Naming a grain's traits from its vector; what is not known of a taxon does not count."""

    def __init__(self, dim: int, taxa: list[str]):
        super().__init__()
        from ....data.traits import trait_matrix

        _, known = trait_matrix(taxa)
        self.register_buffer("known", torch.from_numpy(known))
        self.known: torch.Tensor
        self.scale = nn.Parameter(torch.tensor(8.0))
        self.head = nn.Linear(dim, known.shape[1])

    def forward(self, z: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        truth = self.known[labels]
        there = ~truth.isnan()
        each = nn.functional.binary_cross_entropy_with_logits(
            self.head(self.scale * z), truth.nan_to_num(), reduction="none"
        )
        return each[there].mean()
