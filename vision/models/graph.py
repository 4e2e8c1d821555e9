"""A network body from a layer table with named rows.

A row reads `[name, sources, block, arguments]`: sources are names of earlier rows or `image`; `row.part` names one
output of a row that has several. See `hieraedge.yaml`.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args, get_type_hints

import torch
from torch import nn

from ...errors import UsageError
from .rows import ROWS, Scale

__all__ = ["Body"]


class Body(nn.Module):
    """The rows of a table as one module: an image to feature maps.

    Args:
        rows: `[name, sources, block, arguments]` each.
        outputs: Names of the maps to return.
        scale: Width and depth.
        options: Values for the `$option` arguments, or texts of them; every option must be used.
        channels: Channels of the image.

    Attributes:
        blocks: The modules by row name.
        channels: Channels of the outputs.

    Raises:
        UsageError: A row that cannot be meant; the message names the row.
    """

    def __init__(
        self,
        rows: Sequence[Sequence[Any]],
        outputs: Sequence[str],
        scale: Scale,
        options: Mapping[str, Any],
        channels: int = 3,
    ):
        super().__init__()
        self.blocks = nn.ModuleDict()
        self.sources: dict[str, tuple[str, ...]] = {}
        self.parts: dict[str, tuple[str, ...]] = {}
        self.outputs = tuple(outputs)
        widths = {"image": channels}
        used: set[str] = set()
        for row in rows:
            name, sources, block, arguments = _read(row)
            if name in self.blocks or name == "image" or "." in name:
                raise UsageError(f"row {name!r}: expected a new name without dots")
            for source in sources:
                _known(f"row {name!r}: source", source, widths)
            _known(f"row {name!r}: block", block, ROWS)
            told = {key: f"row {name!r}: {key}" for key in arguments}
            for key, value in arguments.items():
                if isinstance(value, str) and value.startswith("$"):
                    _known(f"row {name!r}: option", value[1:], options)
                    arguments[key] = options[value[1:]]
                    used.add(value[1:])
                    told[key] = f"option {value[1:]!r}"
            inputs = [widths[source] for source in sources]
            try:
                inspect.signature(ROWS[block]).bind(scale, *inputs, **arguments)
            except TypeError as error:
                raise UsageError(
                    f"row {name!r}: {block} with {len(inputs)} source(s) and {arguments}: {error}; "
                    f"expected {inspect.signature(ROWS[block])}"
                ) from error
            arguments = {key: _typed(ROWS[block], key, value, told[key]) for key, value in arguments.items()}
            module, made = ROWS[block](scale, *inputs, **arguments)
            self.blocks[name], self.sources[name] = module, sources
            self.parts[name] = tuple(f"{name}.{part}" for part in made) if isinstance(made, dict) else (name,)
            widths |= zip(self.parts[name], made.values() if isinstance(made, dict) else (made,), strict=True)
        for output in self.outputs:
            _known("output", output, widths)
        if unused := sorted(set(options) - used):
            raise UsageError(
                f"options: no row uses {', '.join(unused)}; expected some of {', '.join(sorted(used)) or 'none'}"
            )
        self.channels = tuple(widths[output] for output in self.outputs)
        # The row after which a map is not needed any more: large images would otherwise hold every map at once.
        self.last_use = {source: name for name, sources in self.sources.items() for source in sources}

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        """(B, channels, H, W) with sides that are multiples of 32 -> the output maps, finest first."""
        return list(self.maps(image, self.outputs).values())

    @torch.no_grad()
    def check_strides(self, strides: Sequence[int], channels: int) -> None:
        """Refuses a table whose outputs are not of these strides: boxes would be read on another grid than their own.

        Raises:
            UsageError: They are not, or the sources of a row do not fit together.
        """
        training, side = self.training, 2 * max(strides)
        try:
            maps = self.eval()(torch.zeros(1, channels, side, side))
        except RuntimeError as error:
            raise UsageError(f"layers: expected sources of one stride in each row, got {error}") from error
        finally:
            self.train(training)
        got = [side / x.shape[-1] for x in maps]
        if got != list(strides):
            found = ", ".join(f"{stride:g} ({name})" for stride, name in zip(got, self.outputs, strict=True))
            raise UsageError(f"outputs: expected rows of strides {', '.join(map(str, strides))} in order, got {found}")

    def maps(self, image: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """The maps of these names, for inspection: `body.maps(image, ["edge.p3", "p3"])`.

        Raises:
            UsageError: A name that no row has.
        """
        maps = {"image": image}
        for name, module in self.blocks.items():
            made = module(*(maps[source] for source in self.sources[name]))
            maps |= zip(self.parts[name], made if isinstance(made, tuple) else (made,), strict=True)
            for source in self.sources[name]:
                if self.last_use[source] == name and source not in names:
                    maps.pop(source, None)
        for name in names:
            _known("map", name, maps)
        return {name: maps[name] for name in names}


def _read(row: Sequence[Any]) -> tuple[str, tuple[str, ...], str, dict[str, Any]]:
    if not isinstance(row, list | tuple) or len(row) != 4 or not isinstance(row[3], Mapping):
        raise UsageError(f"expected a row [name, sources, block, {{arguments}}], got {row!r}")
    name, sources, block, arguments = row
    return name, (sources,) if isinstance(sources, str) else tuple(sources), block, dict(arguments)


def _typed(maker: Any, key: str, value: Any, told: str) -> Any:
    """An argument as its maker declares it; of a number or a switch its text does, too, as a command line has it."""
    hint = get_type_hints(maker)[key]
    kinds = get_args(hint) or (hint,)
    if value is None and type(None) in kinds:
        return None
    # `Sequence[int]` and `int | None` both have int among what they are made of.
    kind = next(kind for kind in kinds if kind is not type(None))
    many = getattr(hint, "__origin__", None) is Sequence
    read, expected = _KINDS[kind]
    try:
        if not many:
            return read(value)
        return [read(one) for one in (value.split(",") if isinstance(value, str) else value)]
    except (ValueError, TypeError, KeyError):
        usual = inspect.signature(maker).parameters[key].default
        such = "" if usual in (inspect.Parameter.empty, None) else f" such as {usual}"
        several = ", or several" if many else ""
        raise UsageError(f"{told}: expected {expected}{such}{several}; got {value!r}") from None


def _whole(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _number(value: Any) -> float:
    if isinstance(value, bool) or not math.isfinite(value := float(value)):
        raise ValueError
    return value


def _switch(value: Any) -> bool:
    return {True: True, False: False, "true": True, "false": False}[value]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


_KINDS: dict[Any, tuple[Any, str]] = {
    int: (_whole, "a whole number"),
    float: (_number, "a number"),
    bool: (_switch, "true or false"),
    str: (_text, "a name"),
}


def _known(what: str, name: str, names: Mapping[str, Any]) -> None:
    if name not in names:
        raise UsageError(f"{what} {name!r} is not known; expected one of {', '.join(sorted(names)) or 'none'}")
