"""LiteRT (TensorFlow Lite): a folder of `.tflite` files, one per batch size.

litert-torch writes a file for one batch size. With a dynamic batch it fails at the first flatten. A
file for one size cannot be resized if a reshape contains that size as a constant.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from toolkit.artifacts.formats import Request, Written
from toolkit.artifacts.formats._tracing import as_unsupported
from toolkit.artifacts.rounding.number_formats import error_of_evaluation
from toolkit.artifacts.rounding.torch_model import logits_of
from toolkit.schema import TRAITS, ExpectedError, Inputs

_BATCH_SIZES = (100, 1)
_SIGNATURE = "serving_default"  # litert-torch's name for the only signature
_PREPROCESSING = {
    *("CAST", "DIV", "SUB", "MUL", "ADD"),
    *("SLICE", "STRIDED_SLICE", "GATHER", "CONCATENATION"),
}


def export(request: Request) -> Written:
    """Write a folder with a `batch-<size>.tflite` for each batch size, always including 1.

    Int8 sums are exact on every instruction set, so `request.isas` has no effect.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # from torch.export, jax and the calibration
        models = {size: _convert(request.model, request.example, size) for size in _BATCH_SIZES}
        if request.precision == "int8":
            models = _static_int8(models, request.calibration)
        elif request.precision != "fp32":
            recipe = {"fp16": _fp16_recipe, "int8-dynamic": _dynamic_recipe}[request.precision]()
            models = {size: _quantise(model, recipe) for size, model in models.items()}
    request.path.mkdir()
    models = {size: _with_metadata(each, request.metadata) for size, each in models.items()}
    for size, model in models.items():
        (request.path / f"batch-{size}.tflite").write_bytes(model)
    expected = _expected_error(models[1], request)
    return Written(batch_sizes=tuple(models), expected_error=expected)


def _expected_error(single: bytes, request: Request) -> ExpectedError | None:
    """Return the expected error of int8, from the file for a single image."""
    if request.measured is None or not TRAITS[request.precision].quantised:
        return None
    return error_of_evaluation(
        _by_reference_kernels(single, request.measured),
        logits_of(request.model, request.measured),
        method="LiteRT's reference kernels compared with the float32 model",
    )


def _by_reference_kernels(single: bytes, inputs: Inputs) -> NDArray[np.floating]:
    """Return logits `[N,K]`, computed without a delegate."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    graph = Interpreter(
        model_content=single, experimental_op_resolver_type=OpResolverType.BUILTIN_REF
    )
    graph.allocate_tensors()
    (given,), (wanted,) = graph.get_input_details(), graph.get_output_details()
    logits = []
    for at in range(len(inputs)):
        graph.set_tensor(given["index"], inputs[at : at + 1])
        graph.invoke()
        logits.append(graph.get_tensor(wanted["index"]))
    return np.concatenate(logits)


class NamedOutput(nn.Module):
    """A model with a named output; litert-torch takes the name from the key of a dictionary."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        """Float32 or uint8 `[N,C,H,W]` → logits `[N,K]`."""
        return {"logits": self.model(input)}


def _convert(model: nn.Module, example: Tensor, batch_size: int) -> bytes:
    """Return the `.tflite` file in float32, for one batch size."""
    import litert_torch

    batch = example[:1].repeat(batch_size, 1, 1, 1)
    named = NamedOutput(model).eval()
    with as_unsupported(model, batch):
        converted = litert_torch.convert(named, sample_kwargs={"input": batch})
    content: bytes = converted.model_content()
    return content


def _with_metadata(model: bytes, metadata: Mapping[str, str]) -> bytes:
    """Return the file with each entry as a named buffer.

    The schema of Android's task library (`TFLITE_METADATA`) is in tflite-support alone, which is no
    longer maintained.
    """
    from ai_edge_litert.schema_py_generated import BufferT, MetadataT
    from ai_edge_litert.tools import flatbuffer_utils

    if not metadata:
        return model
    content = flatbuffer_utils.read_model_from_bytearray(model)
    for each in content.buffers:  # the quantiser keeps them behind the flatbuffer
        if isinstance(each.data, bytes):
            each.data = np.frombuffer(each.data, np.uint8)  # bytes are packed one by one
    content.metadata = [*(content.metadata or [])]
    for name, value in metadata.items():
        buffer, entry = BufferT(), MetadataT()
        buffer.data = np.frombuffer(value.encode(), np.uint8)
        entry.name, entry.buffer = name, len(content.buffers)
        content.buffers.append(buffer)
        content.metadata.append(entry)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(content))


def _quantise(model: bytes, recipe: Any, ranges: Any = None) -> bytes:
    from ai_edge_quantizer.quantizer import Quantizer

    result = Quantizer(model, recipe.get_quantization_recipe()).quantize(
        ranges, enable_progress_bar=False, enable_progress_report=False
    )
    return bytes(result.quantized_model)


def _fp16_recipe() -> Any:
    """Return a recipe with weights in float16, which are converted to float32 for computation."""
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import (
        ComputePrecision,
        OpQuantizationConfig,
        TensorDataType,
        TensorQuantizationConfig,
        TFLOperationName,
    )
    from ai_edge_quantizer.recipe_manager import RecipeManager

    recipe = RecipeManager()
    recipe.add_quantization_config(
        ".*",
        TFLOperationName.ALL_SUPPORTED,
        OpQuantizationConfig(
            weight_tensor_config=TensorQuantizationConfig(num_bits=16, dtype=TensorDataType.FLOAT),
            compute_precision=ComputePrecision.FLOAT,
            explicit_dequantize=True,
        ),
        AlgorithmName.FLOAT_CASTING,
    )
    return recipe


def _dynamic_recipe() -> Any:
    """Return a recipe with weights in int8, one scale per channel; the inputs of a layer are
    quantised at run time."""
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    recipe = RecipeManager()
    recipe.add_dynamic_config(".*", TFLOperationName.ALL_SUPPORTED, num_bits=8)
    return recipe


def _static_recipe(float_layers: list[str]) -> Any:
    """Return a recipe with weights and activations in int8, except the model's input and output,
    and these layers."""
    from ai_edge_quantizer.algorithm_manager import AlgorithmName
    from ai_edge_quantizer.qtyping import TFLOperationName
    from ai_edge_quantizer.recipe_manager import RecipeManager

    everything = TFLOperationName.ALL_SUPPORTED
    recipe = RecipeManager()
    recipe.add_static_config(".*", everything, activation_num_bits=8, weight_num_bits=8)
    kept = [(".*", TFLOperationName.INPUT), (".*", TFLOperationName.OUTPUT)]
    kept += [(f"^{re.escape(name)};?$", everything) for name in float_layers]
    for regex, operation in kept:
        recipe.add_quantization_config(regex, operation, algorithm_key=AlgorithmName.NO_QUANTIZE)
    return recipe


def _static_int8(models: dict[int, bytes], inputs: Inputs) -> dict[int, bytes]:
    """Return files for all sizes with the same ranges, so that the logits of an image do not depend
    on the size.

    The ranges are the smallest and largest value, measured one image at a time. The quantizer's own
    moving average clips larger values: logits were up to sixteen times further from float32's. If
    litert-torch has built a different graph for a size, that size is left out, because it would
    round in other places.
    """
    from ai_edge_quantizer.calibrator import Calibrator
    from ai_edge_quantizer.utils.qsv_utils import min_max_update

    single = models[1]
    recipe = _static_recipe([*_preprocessing(single), *_last_layer(single)])
    calibrator = Calibrator(single, num_threads=1, qsv_update_func=min_max_update)
    images = [{"input": inputs[at : at + 1]} for at in range(len(inputs))]
    calibrator.calibrate({_SIGNATURE: images}, recipe)
    ranges = calibrator.get_model_qsvs()
    names = _tensor_names(single)
    alike = {size: model for size, model in models.items() if _tensor_names(model) == names}
    return {size: _quantise(model, recipe, ranges) for size, model in alike.items()}


def _tensor_names(model: bytes) -> list[str]:
    from ai_edge_litert.interpreter import Interpreter

    return [tensor["name"] for tensor in Interpreter(model_content=model).get_tensor_details()]


def _preprocessing(model: bytes) -> list[str]:
    """Return the names of the values between a uint8 input and the first layer; none if the input
    is float32. They stay in float32, so the layer gets the same values as without them."""
    from ai_edge_litert.interpreter import Interpreter

    graph = Interpreter(model_content=model)
    (given,) = graph.get_input_details()
    if given["dtype"] != np.uint8:
        return []
    names = {tensor["index"]: tensor["name"] for tensor in graph.get_tensor_details()}
    reached, kept = {int(given["index"])}, []
    for each in graph._get_ops_details():  # in the order of computation
        inputs, outputs = {int(at) for at in each["inputs"]}, [int(at) for at in each["outputs"]]
        if each["op_name"] in _PREPROCESSING and inputs & reached:
            reached.update(outputs)
            kept += [names[at] for at in outputs]
    return kept


def _last_layer(model: bytes) -> list[str]:
    """Return the names of the outputs from the last layer with weights on, the logits first.

    In int8, they would be clipped to the range of the calibration images' logits, in 256 steps.
    """
    from ai_edge_litert.interpreter import Interpreter

    graph = Interpreter(model_content=model)
    tensors = {tensor["index"]: tensor for tensor in graph.get_tensor_details()}
    makers = {int(at): each for each in graph._get_ops_details() for at in each["outputs"]}
    at, names = graph.get_output_details()[0]["index"], []
    while at in makers:
        names.append(tensors[at]["name"])
        inputs = [int(each) for each in makers[at]["inputs"] if each in tensors]
        computed = [each for each in inputs if each in makers]
        weights = [each for each in inputs if each not in makers and _is_weight(tensors[each])]
        if weights or len(computed) != 1:
            break
        at = computed[0]
    return names


def _is_weight(tensor: Any) -> bool:
    return tensor["dtype"] == np.float32 and len(tensor["shape"]) > 1
