"""Training of the matcher on vectors that are there already; minutes on a CPU.

    lessons = Lessons([pairs] * 8, LessonSettings())
    matcher = train_matcher(lessons, MatcherSettings(text_model="minilm"))

What is a negative follows from facts: a phrase is wrong for a grain only if it says what is known not to be so.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn

from ...errors import UsageError
from .captions import FIELDS
from .contrast import InfoNCE, SigLIP
from .matcher import Matcher
from .pairs import Pairs, draw_captions
from .ranking import RankingObjective
from .texts import TEXT_MODELS

__all__ = ["OBJECTIVES", "LessonSettings", "Lessons", "MatcherSettings", "train_matcher"]

OBJECTIVES = ("ranking", "infonce", "siglip")


@dataclass(frozen=True, kw_only=True)
class LessonSettings:
    """Which phrases are drawn.

    Attributes:
        fields: What they may say.
        keep: Probability that a fact is said.
        name: Probability that the taxon is named.
        seed: Of the phrases.
    """

    fields: tuple[str, ...] = FIELDS
    keep: float = 0.7
    name: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("fields", self.fields and set(self.fields) <= set(FIELDS), f"some of {', '.join(FIELDS)}"),
            ("keep", 0 < self.keep <= 1, "above 0, to 1"),
            ("name", 0 <= self.name <= 1, "0 to 1"),
        ):
            if not valid:
                raise UsageError(f"{name}: expected {expected}, got {getattr(self, name)!r}")


class Lessons:
    """Grains in rounds, each grain with a new phrase in every round.

    Args:
        rounds: The grains of each round: the same ones, or with measures composed anew; features of one length.
        settings: Which phrases.
    """

    def __init__(self, rounds: Sequence[Pairs], settings: LessonSettings):
        if not rounds or len({pairs.features.shape[2] for pairs in rounds}) > 1:
            raise UsageError("rounds: expected grains with features of one length, got none or several")
        self.settings = settings
        self.rounds = [_Round(pairs, i, settings) for i, pairs in enumerate(rounds)]
        self.texts = list(dict.fromkeys(text for one in self.rounds for text in one.captions.texts))
        place = {text: i for i, text in enumerate(self.texts)}
        for one in self.rounds:
            one.rows = np.array([place[text] for text in one.captions.texts])
        self._read: dict[tuple[str, bool], torch.Tensor] = {}

    def features(self, matcher: Matcher) -> torch.Tensor:
        """What a matcher's text tower takes of all phrases; each is read once, for all matchers with such a tower."""
        key = matcher.config["text_model"], matcher.config["glossary"]
        if key not in self._read:
            parts = [matcher.read(self.texts[i : i + 512]) for i in range(0, len(self.texts), 512)]
            self._read[key] = torch.cat(parts)
        return self._read[key]


class _Round:
    """Grains with one phrase each."""

    rows: np.ndarray

    def __init__(self, pairs: Pairs, number: int, s: LessonSettings) -> None:
        self.pairs = pairs
        seed = s.seed * 1009 + number
        self.captions = draw_captions(pairs, 1, seed, keep=s.keep, name=s.name, fields=s.fields)
        self.wrong = self.captions.truth(pairs)[1]
        names = {name: i for i, name in enumerate(sorted(set(pairs.taxa)))}
        self.labels = np.array([names[taxon] for taxon in pairs.taxa], np.int64)
        self._members = [np.flatnonzero(self.labels[self.captions.of] == i) for i in range(len(names))]

    def draw(self, rng: np.random.Generator, batch: int) -> np.ndarray:
        """Phrases of a batch, of all taxa alike."""
        taxa = np.resize(rng.permutation(len(self._members)), batch)
        return np.array([rng.choice(self._members[t]) for t in taxa])


@dataclass(frozen=True, kw_only=True)
class MatcherSettings:
    """How a matcher is trained.

    Attributes:
        text_model: Of `texts.TEXT_MODELS`.
        objective: Of `OBJECTIVES`.
        ranking: Switches of the ranking objective.
        dim: Length of the common vectors.
        image_width: See `ImageTower`; 0 brings phrases into the space of the pictures.
        glossary: See `Matcher`.
        wrong: What counts as a negative: `facts`, phrases that say what is known not to be; or `taxa`, those made for
            grains of another taxon.
        noise: Standard deviation of noise on the features' unit vectors, so that taxa are not learned by heart.
        steps: Batches.
        batch: Pairs a batch, of as many taxa as there are.
        lr: Peak learning rate of AdamW; a cosine to 0.
        weight_decay: Of the matrices.
        average: Weight of the past in the running mean of the weights, which is what is kept.
        seed: Of weights and batches.
    """

    text_model: str = "minilm"
    objective: str = "ranking"
    ranking: RankingObjective = field(default_factory=RankingObjective)
    dim: int = 192
    image_width: int = 0
    glossary: bool = True
    wrong: str = "facts"
    noise: float = 0.0
    steps: int = 1000
    batch: int = 146
    lr: float = 2e-3
    weight_decay: float = 0.05
    average: float = 0.99
    seed: int = 0

    def __post_init__(self) -> None:
        for name, valid, expected in (
            ("text_model", self.text_model in TEXT_MODELS, f"one of {', '.join(TEXT_MODELS)}"),
            ("objective", self.objective in OBJECTIVES, f"one of {', '.join(OBJECTIVES)}"),
            ("wrong", self.wrong in ("facts", "taxa"), "facts or taxa"),
            ("noise", self.noise >= 0, "0 or more"),
            ("steps", self.steps >= 1, "1 or more"),
            ("batch", self.batch >= 2, "2 or more"),
            ("lr", self.lr > 0, "above 0"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("average", 0 <= self.average < 1, "0 to below 1"),
        ):
            if not valid:
                raise UsageError(f"{name}: expected {expected}, got {getattr(self, name)!r}")

    def plain(self) -> dict[str, Any]:
        """The settings as plain values."""
        return asdict(self)


def train_matcher(lessons: Lessons, settings: MatcherSettings) -> Matcher:
    """Trains a matcher.

    Args:
        lessons: What it learns from.
        settings: How.

    Returns:
        The mean of the weights over the last steps, on the CPU, in evaluation mode.
    """
    s, rounds = settings, lessons.rounds
    torch.manual_seed(s.seed)
    features_of = rounds[0].pairs.features.shape[2]
    matcher = Matcher(s.text_model, features_of, s.dim, s.image_width, glossary=s.glossary)
    features = lessons.features(matcher)
    loss_of: Any = {"ranking": s.ranking, "infonce": InfoNCE(), "siglip": SigLIP()}[s.objective]
    learned = [*matcher.parameters(), *(loss_of.parameters() if isinstance(loss_of, nn.Module) else ())]
    groups = [
        {"params": [p for p in learned if p.ndim > 1], "weight_decay": s.weight_decay},
        {"params": [p for p in learned if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=s.lr)
    mean = copy.deepcopy(matcher)
    for step in range(s.steps):
        rate = s.lr * min(1.0, (step + 1) / (0.05 * s.steps)) * 0.5 * (1 + math.cos(math.pi * step / s.steps))
        for group in optimiser.param_groups:
            group["lr"] = rate
        rng = np.random.default_rng([s.seed, step])
        now = rounds[int(rng.integers(len(rounds)))]
        at = now.draw(rng, s.batch)
        grains = now.captions.of[at]
        view = rng.integers(len(now.pairs.features), size=len(at))
        seen = torch.from_numpy(now.pairs.features[view, grains].astype(np.float32))
        if s.noise:
            seen = seen + s.noise * torch.from_numpy(rng.standard_normal(seen.shape, np.float32))
        matcher.train()
        loss = loss_of(
            matcher.images(seen),
            matcher.texts(features[now.rows[at]]),
            torch.from_numpy(now.labels[grains]),
            wrong=torch.from_numpy(now.wrong[at][:, grains]) if s.wrong == "facts" else None,
            **({"rng": torch.Generator().manual_seed(s.seed * 1_000_003 + step)} if s.objective == "ranking" else {}),
        )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 5.0)
        optimiser.step()
        with torch.no_grad():
            keep = min(s.average, step / (step + 10))
            for old, new in zip(mean.state_dict().values(), matcher.state_dict().values(), strict=True):
                old.lerp_(new, 1 - keep)
    return mean.eval()
