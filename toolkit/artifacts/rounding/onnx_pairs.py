"""An int8 ONNX file split into its weights and its pairs of QuantizeLinear and DequantizeLinear.

In: the file's model. Out: a `QuantisedGraph`, and from it float models that differ in what is
rounded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from toolkit.artifacts.rounding.clipping import Opened

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto

_QUANTISE, _DEQUANTISE = "QuantizeLinear", "DequantizeLinear"
# Parts of the names of other operators that compute with integers.
_OTHERS = ("QLinear", "QGemm", "QAttention", "Integer", "DynamicQuantize", "NBits", "FakeQuant")

Constants = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Weight:
    """A constant that the file stores as integers, with its name as floats."""

    name: str
    values: NDArray[np.floating]
    steps: NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A pair that rounds an activation: input `source`, output `result`, range `low` to `high`."""

    source: str
    result: str
    low: NDArray[np.floating]
    high: NDArray[np.floating]

    def extremes(self, values: NDArray[np.floating]) -> tuple[NDArray[np.floating], ...]:
        """Return the lowest and highest value of each image `[N,K]`, over all or per channel."""
        channels = self.low.size
        if channels > 1:
            values = np.moveaxis(values, int(np.argmax(self.low.shape)), 1)
        flat = values.reshape(len(values), channels, -1)
        return flat.min(-1), flat.max(-1)

    def without(self, low: NDArray[np.bool_], high: NDArray[np.bool_]) -> Pair:
        """Return the same without these limits."""
        largest = np.finfo(np.float32).max
        return replace(
            self,
            low=np.where(low.reshape(self.low.shape), -largest, self.low).astype(self.low.dtype),
            high=np.where(high.reshape(self.high.shape), largest, self.high).astype(
                self.high.dtype
            ),
        )


@dataclass(frozen=True, kw_only=True)
class QuantisedGraph:
    """A model whose quantised operators are pairs, or compute weights from constants.

    `folded` are the outputs of the latter.
    """

    model: ModelProto
    weights: tuple[Weight, ...]
    pairs: tuple[Pair, ...]
    folded: frozenset[str]

    def rounded(self) -> ModelProto:
        """Return the computation of the file, with weights as floats."""
        return self._rebuilt(self.model.graph.node, seed=None)

    def without(self, opened: Sequence[Opened]) -> QuantisedGraph:
        """Return the same without these limits of the pairs."""
        pairs = zip(self.pairs, opened, strict=True)
        return replace(self, pairs=tuple(pair.without(*limits) for pair, limits in pairs))

    def plain(self, seed: int | None = None) -> ModelProto:
        """Return the same with activations clipped to their ranges, but not rounded.

        With a seed, each weight is moved by up to half its step.
        """
        return self._rebuilt(self._unrounded(), seed=seed)

    def _unrounded(self) -> Iterator[NodeProto]:
        """Return the nodes with each pair replaced by its range. For a layer with a ReLU, the range
        ends at 0, and the ReLU itself is no longer in the graph."""
        from onnx import helper

        pairs = {pair.result: pair for pair in self.pairs}
        for node in self.model.graph.node:
            pair = pairs.get(node.output[0])
            if pair is not None:
                low, high, above = (f"{pair.result}_{part}" for part in ("low", "high", "above"))
                yield _constant(low, pair.low)
                yield _constant(high, pair.high)
                yield helper.make_node("Max", [pair.source, low], [above])
                yield helper.make_node("Min", [above, high], [pair.result])
            elif node.op_type != _QUANTISE:
                yield node

    def _rebuilt(self, nodes: Iterable[NodeProto], *, seed: int | None) -> ModelProto:
        import onnx

        random = np.random.default_rng(seed)
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        del model.graph.node[:]
        del model.graph.value_info[:]
        for weight in self.weights:
            values = weight.values
            if seed is not None:
                values = values + weight.steps * random.uniform(-0.5, 0.5, values.shape)
            model.graph.node.append(_constant(weight.name, values.astype(weight.values.dtype)))
        model.graph.node.extend(node for node in nodes if node.output[0] not in self.folded)
        return model


def _constant(name: str, values: NDArray[Any]) -> NodeProto:
    from onnx import helper, numpy_helper

    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values))


def take_apart(model: ModelProto) -> QuantisedGraph | None:
    """Return the parts of a model; None if it has none, or if it has other quantised operators than
    pairs."""
    names = [node.op_type for node in _all_nodes(model)]
    hidden = names.count(_DEQUANTISE) - sum(n.op_type == _DEQUANTISE for n in model.graph.node)
    if hidden or any(word in name for name in names for word in _OTHERS):
        return None
    constants, ranks = _constants(model.graph), _ranks(model)
    makers = {node.output[0]: node for node in model.graph.node if node.op_type == _QUANTISE}
    weights, pairs, folded = [], [], set()
    for node in model.graph.node:
        if node.op_type != _DEQUANTISE:
            continue
        maker = makers.get(node.input[0])
        source = node.input[0] if maker is None else maker.input[0]
        if source in constants:
            values = constants[source]
            if maker is not None:
                values = _Steps(maker, values.shape, constants).integers(values)
                folded.add(maker.output[0])
            weights.append(_Steps(node, values.shape, constants).weight(values))
            folded.add(node.output[0])
        elif maker is not None and (constants[maker.input[1]].size == 1 or source in ranks):
            shape = (1,) * ranks.get(source, 0)
            pairs.append(_Steps(maker, shape, constants).pair(source, node.output[0]))
        else:
            return None
    if not weights and not pairs:
        return None
    return QuantisedGraph(
        model=model, weights=tuple(weights), pairs=tuple(pairs), folded=frozenset(folded)
    )


class _Steps:
    """Scale and zero point of a quantised operator, spread over the shape of its tensor."""

    def __init__(self, node: NodeProto, shape: tuple[int, ...], constants: Constants) -> None:
        import ml_dtypes
        from onnx import TensorProto, helper

        given = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        axis, block = given.get("axis", 1), given.get("block_size", 0)
        wanted = given.get("output_dtype", 0) or TensorProto.UINT8
        named = len(node.input) > 2 and node.input[2] != ""
        zero = np.zeros((), helper.tensor_dtype_to_np_dtype(wanted))
        zero = constants[node.input[2]] if named else zero
        self._limits = ml_dtypes.iinfo(zero.dtype)  # type: ignore[no-untyped-call]
        self._name = node.output[0]
        self._scale = _spread(constants[node.input[1]], shape, axis, block)
        self._zero = _spread(zero, shape, axis, block).astype(np.float64)

    def integers(self, values: NDArray[Any]) -> NDArray[np.floating]:
        """Apply QuantizeLinear to a constant."""
        rounded = np.rint(values / self._scale) + self._zero
        found: NDArray[np.floating] = rounded.clip(self._limits.min, self._limits.max)
        return found

    def weight(self, integers: NDArray[Any]) -> Weight:
        """Apply DequantizeLinear to a constant."""
        values = (integers.astype(np.float64) - self._zero) * self._scale
        return Weight(name=self._name, values=values.astype(self._scale.dtype), steps=self._scale)

    def pair(self, source: str, result: str) -> Pair:
        """Return the range that QuantizeLinear can represent."""
        low, high = (
            ((limit - self._zero) * self._scale).astype(self._scale.dtype)
            for limit in (self._limits.min, self._limits.max)
        )
        return Pair(source=source, result=result, low=low, high=high)


def _spread(values: NDArray[Any], shape: tuple[int, ...], axis: int, block: int) -> NDArray[Any]:
    """Spread one value, one per index along `axis`, or one per block of them, to fit `shape`."""
    if values.size == 1:
        return values.reshape(())
    if block:
        whole = np.repeat(values, block, axis=axis)
        return whole[tuple(slice(size) for size in shape)]
    return values.reshape([-1 if at == axis % len(shape) else 1 for at in range(len(shape))])


def _constants(graph: GraphProto) -> dict[str, NDArray[Any]]:
    from onnx import numpy_helper

    found = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                found[node.output[0]] = numpy_helper.to_array(attribute.t)
    return found


def _ranks(model: ModelProto) -> dict[str, int]:
    """Return how many axes each tensor has, if known."""
    from onnx import shape_inference

    graph = shape_inference.infer_shapes(model).graph
    tensors = [(each.name, each.type.tensor_type) for each in (*graph.value_info, *graph.input)]
    return {name: len(each.shape.dim) for name, each in tensors if each.HasField("shape")}


def _all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Return all nodes, including those of functions, branches and loops."""
    waiting = [*model.graph.node, *(node for each in model.functions for node in each.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            waiting.extend(attribute.g.node)
