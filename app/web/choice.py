"""The detectors that a visitor can choose from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ...vision.weights import shipped_models

if TYPE_CHECKING:
    from ...vision.detector import Detector

__all__ = ["Detectors"]


class Detectors:
    """Detectors by name; all but the first are loaded when they are first asked for, and then kept.

    Args:
        first: The one that is chosen to begin with.
        others: Names of models that ship.
        device: Where those run.
        runtime: What runs them, see `palyno.load`.
        on_prepare: See there.

    Attributes:
        first: Its name here, which tells weights of one's own from those that ship.
    """

    def __init__(
        self,
        first: Detector,
        others: Sequence[str] = (),
        *,
        device: str = "cpu",
        runtime: str = "auto",
        on_prepare: Callable[[str], None] | None = None,
    ) -> None:
        shipped = shipped_models()
        own = first.name not in shipped or shipped[first.name].sha256 != first.sha256
        self.first = f"{first.name} {first.sha256[:12]}" if own and first.name in others else first.name
        self._about = {self.first: "" if own else shipped[first.name].about}
        self._about |= {name: shipped[name].about for name in others if name != self.first}
        self._loaded = {self.first: first}
        self._how: dict[str, Any] = {"device": device, "runtime": runtime, "on_prepare": on_prepare}
        self._loading = threading.Lock()

    def choices(self) -> list[tuple[str, str]]:
        """What is shown of each, and its name."""
        return [(f"{name}: {about}" if about else name, name) for name, about in self._about.items()]

    def __getitem__(self, name: str | None) -> Detector:
        """The detector of this name, the first where there is none of it.

        Raises:
            RejectedModelError: Its weights are not what they should be.
        """
        if name not in self._about:
            name = self.first
        with self._loading:
            if name not in self._loaded:
                from ...vision.detector import load

                self._loaded[name] = load(name, **self._how)
            return self._loaded[name]
