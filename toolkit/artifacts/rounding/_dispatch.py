"""A mode in which a torch model runs operation by operation, so that some can be replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class ReplacingMode(TorchDispatchMode):
    """Calls `replaced` for each operation. Composite operations are decomposed first, so that none
    is missed inside them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def replaced(self, func: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return the result of an operation, or NotImplemented to run it as it is."""
        raise NotImplementedError

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operation."""
        named = dict(kwargs or {})
        result = self.replaced(func, args, named)
        if result is NotImplemented:
            with self:
                result = func.decompose(*args, **named)
        return func(*args, **named) if result is NotImplemented else result
