"""Names as people write them: of formats, runtimes, precisions and devices.

In: what the user wrote, and the known names. Out: the known name. Case and punctuation do not
matter (`FP-16` is fp16), and names that the field uses for the same thing are understood (`tflite`
is litert). Everything else is an error that suggests what was meant.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import cast

from toolkit.errors import UnknownNameError
from toolkit.schema import EXPORTED_PRECISIONS, NO_OP, Precision

ALL = "all"

# Other names of the same thing, without case and punctuation.
_ALIASES: dict[str, dict[str, str]] = {
    "format": {
        **dict.fromkeys(("tflite", "tensorflowlite"), "litert"),
        **dict.fromkeys(("jit", "torchjit", "script", "ts"), "torchscript"),
        **dict.fromkeys(("torchexport", "exportedprogram", "export"), "pt2"),
        **dict.fromkeys(("pte", "et"), "executorch"),
        **dict.fromkeys(("aoti", "inductor"), "aotinductor"),
        **dict.fromkeys(("ov", "ir", "openvinoir"), "openvino"),
        **dict.fromkeys(("mlpackage", "mlprogram", "mlmodel"), "coreml"),
        **dict.fromkeys(("ortformat",), "ort"),
    },
    "runtime": {
        **dict.fromkeys(("ort", "onnxrt"), "onnxruntime"),
        **dict.fromkeys(("torch", "pytorch"), "eager"),
        **dict.fromkeys(("jit", "torchjit", "script", "ts"), "torchscript"),
        **dict.fromkeys(("torchcompile", "inductor", "dynamo"), "compile"),
        **dict.fromkeys(("torchexport",), "pt2"),
        **dict.fromkeys(("aoti",), "aotinductor"),
        **dict.fromkeys(("cudagraphs",), "cudagraph"),
        **dict.fromkeys(("trt",), "tensorrt"),
        **dict.fromkeys(("ov",), "openvino"),
        **dict.fromkeys(("tflite", "tensorflowlite"), "litert"),
        **dict.fromkeys(("pte", "et"), "executorch"),
        **dict.fromkeys(("null",), NO_OP),
    },
    "precision": {
        **dict.fromkeys(("float32", "float", "f32", "single", "full"), "fp32"),
        **dict.fromkeys(("float16", "f16", "half"), "fp16"),
        **dict.fromkeys(("bfloat16",), "bf16"),
        **dict.fromkeys(("i8", "8bit", "static", "int8static"), "int8"),
        **dict.fromkeys(("dynamic", "dynamicint8"), "int8-dynamic"),
        **dict.fromkeys(("weightonly", "weightsonly", "int8weight", "w8"), "int8-weights"),
    },
    "device": {
        **dict.fromkeys(("gpu", "nvidia"), "cuda"),
    },
}
# Names of something else: what the user may want instead.
_NEAR: dict[str, dict[str, tuple[str, ...]]] = {
    "format": {
        **dict.fromkeys(("tensorrt", "trt", "tract"), ("onnx",)),
        **dict.fromkeys(("onnxruntime",), ("onnx", "ort")),
        **dict.fromkeys(("torch", "pytorch", "pt", "pth"), ("torchscript", "pt2")),
        **dict.fromkeys(("compile", "torchcompile"), ("aotinductor",)),
    },
    "runtime": {
        **dict.fromkeys(("onnx",), ("onnxruntime", "openvino", "tract")),
    },
    "precision": {
        **dict.fromkeys(("quantized", "quantised", "q8"), ("int8", "int8-dynamic", "int8-weights")),
    },
}


def known_name(kind: str, given: str, known: Collection[str]) -> str:
    """Return the known name that `given` stands for.

    Args:
        kind: `format`, `runtime`, `precision` or `device`, for aliases and messages.
        given: What the user wrote.
        known: The names to choose from.

    Raises:
        UnknownNameError: None of them; the message lists them and says which one may be meant.
    """
    if given in known:
        return given
    plain = _plain(given)
    for name in known:
        if _plain(name) == plain:
            return name
    meant = _ALIASES.get(kind, {}).get(plain)
    if meant in known:
        return str(meant)
    near = [name for name in _NEAR.get(kind, {}).get(plain, ()) if name in known]
    raise UnknownNameError(kind, given, list(known), near=near)


def listed(given: str | Iterable[str]) -> list[str]:
    """Return names given as a list, as a single text, or as texts with commas, without
    duplicates."""
    texts = [given] if isinstance(given, str) else list(given)
    parts = [part.strip() for text in texts for part in str(text).split(",")]
    named = list(dict.fromkeys(part for part in parts if part))
    return named or parts[:1]  # an empty text is no name, and not the same as none given


def known_names(kind: str, given: str | Iterable[str], known: Collection[str]) -> list[str]:
    """Return the known names that `given` stands for, without duplicates; see `listed` and
    `known_name`."""
    return list(dict.fromkeys(known_name(kind, each, known) for each in listed(given)))


def known_precisions(given: str | Iterable[str]) -> list[Precision]:
    """Return the precisions to export or to choose; see `known_names`."""
    return cast("list[Precision]", known_names("precision", given, EXPORTED_PRECISIONS))


def _plain(name: str) -> str:
    return "".join(each for each in name.lower() if each.isalnum())
