"""Functions of tensors as operators of PyTorch: compilers and exporters keep them whole, profiles show their name.

As `torch.library.custom_op`, of which this is the part that the kernels need, on the same public calls. That one wraps
every call for PyTorch's compiler, whose import takes longer than the first slide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

__all__ = ["Operator", "operator"]

_LIBRARY = torch.library.Library("palyno", "FRAGMENT")


class Operator:
    """An operator `palyno::<name>`; calling it dispatches.

    Args:
        name: Its name.
        function: What it computes, of new memory only; annotations give the schema unless there is one.
        schema: Such as `(Tensor x, int n) -> Tensor[]`.
    """

    def __init__(self, name: str, function: Callable[..., Any], schema: str | None = None):
        self._name = f"palyno::{name}"
        self.__doc__ = function.__doc__
        schema = schema or torch.library.infer_schema(function, mutates_args=())
        _LIBRARY.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
        _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        self.overload = getattr(torch.ops.palyno, name).default

    def __call__(self, *arguments: Any) -> Any:
        """The result; compiled graphs hold the operator in its place."""
        return self.overload(*arguments)

    def register_fake(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator of the function that gives the results' shapes without data."""
        torch.library.register_fake(self._name, function, lib=_LIBRARY)
        return function

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., Any]) -> None:
        """How it is differentiated, once; arguments as for `torch.library.register_autograd`."""
        # A second time PyTorch would take the gradient's own for zero, without a word.
        once = once_differentiable(backward)
        torch.library.register_autograd(self._name, once, setup_context=setup_context, lib=_LIBRARY)


def operator(name: str, schema: str | None = None) -> Callable[[Callable[..., Any]], Operator]:
    """Decorator that makes a function an `Operator`."""
    return lambda function: Operator(name, function, schema)
