"""Recording and editing of the operators that a torch model calls.

In: a model and an example. Out: the operators in order, and a mode that edits them. The model
itself is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_NAMES = {
    "relu": "ReLU", "relu_": "ReLU", "hardtanh": "ReLU6", "hardtanh_": "ReLU6", "gelu": "GELU",
    "silu": "SiLU", "silu_": "SiLU", "leaky_relu": "leaky ReLU", "leaky_relu_": "leaky ReLU",
    "elu": "ELU", "elu_": "ELU", "hardswish": "hard swish", "hardswish_": "hard swish",
    "hardsigmoid": "hard sigmoid", "hardsigmoid_": "hard sigmoid", "sigmoid": "sigmoid",
    "sigmoid_": "sigmoid", "tanh": "tanh", "tanh_": "tanh",
}  # fmt: skip
LAYERS = {"convolution": (1, 2), "addmm": (2, 0), "linear": (1, 2), "native_batch_norm": (1, 2)}
"""Operators with weights: the positions of the weight and the bias among the arguments."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One operator as the model calls it."""

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]

    def run(self, **changed: Any) -> Any:
        """Run the operator with some arguments replaced by position: `run(a1=...)` replaces the
        second."""
        args = list(self.args)
        for name, value in changed.items():
            at = int(name[1:])
            args += [None] * (at + 1 - len(args))
            args[at] = value
        return self.function(*args, **self.kwargs)


@dataclass(frozen=True, kw_only=True)
class Operator:
    """One operator of the recorded model: its number, its name, and its layer."""

    index: int
    name: str
    layer: str
    shape: tuple[int, ...]
    args: tuple[Any, ...]

    @property
    def activation(self) -> str | None:
        """Its name in words if it is an activation."""
        return _NAMES.get(self.name)

    @property
    def has_weights(self) -> bool:
        """Whether it is a convolution, a matrix product or a normalisation."""
        return self.name in LAYERS


Edit = Callable[[Call], Any]


class Edited(TorchDispatchMode):
    """Counts operators and replaces the results of some of them."""

    def __init__(self, edits: Mapping[int, Edit]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._edits = edits
        self._count = -1

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operator."""
        self._count += 1
        edit = self._edits.get(self._count)
        call = Call(function=func, args=args, kwargs=dict(kwargs or {}))
        result = edit(call) if edit else call.run()
        if edit and call.function.overloadpacket.__name__.endswith("_"):  # in place
            args[0].copy_(result)
            return args[0]
        return result


class _Recording(TorchDispatchMode):
    """Records the operators, and the last layer before each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        named = [*model.named_parameters(), *model.named_buffers()]
        self._names = {value.data_ptr(): name for name, value in named if value.numel()}
        self._layer = "the input"
        self.operators: list[Operator] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run one operator."""
        result = func(*args, **dict(kwargs or {}))
        tensors = [each for each in args if isinstance(each, Tensor)]
        names = [self._names.get(each.data_ptr()) for each in tensors]
        known = next((name for name in names if name), None)
        if known is not None:
            self._layer = known.rpartition(".")[0] or known
        first = result[0] if isinstance(result, tuple | list) else result
        self.operators.append(
            Operator(
                index=len(self.operators),
                name=func.overloadpacket.__name__,
                layer=self._layer,
                shape=tuple(first.shape) if isinstance(first, Tensor) else (),
                args=tuple(tuple(x.shape) if isinstance(x, Tensor) else x for x in args),
            )
        )
        return result


def record(model: nn.Module, example: Tensor) -> list[Operator]:
    """Return the operators that the model calls on `example`, in order."""
    recording = _Recording(model)
    with recording:
        model(example)
    return recording.operators
