"""`toolkit import`: your own weights → checkpoint."""

from __future__ import annotations

import contextlib
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from toolkit.cli.options import force_option, read_numbers, together
from toolkit.cli.outcome import Outcome, outcome_of

if TYPE_CHECKING:
    from toolkit.checkpoints.input_spec import Preprocessing
    from toolkit.report.progress import Progress

_MOST_BYTES = 16 << 20  # of a file of class names

_model_options = together(
    click.option(
        "--model",
        "factory",
        required=True,
        metavar="MODULE:FUNCTION",
        help="Factory function of the model, such as torchvision.models:resnet18. The current "
        "folder is searched last.",
    ),
    click.option(
        "--model-argument",
        "arguments",
        multiple=True,
        metavar="NAME=VALUE",
        help="Argument of the factory, such as num_classes=10; repeatable.",
    ),
    click.option(
        "--output",
        metavar="NAME|INDEX",
        help="Output that holds the logits, if the model returns a tuple, a dictionary or a "
        "dataclass.",
    ),
)
_weights_options = together(
    click.option(
        "--key",
        metavar="NAME",
        help="Key under which WEIGHTS holds the state_dict, such as state_dict or model.ema. "
        "By default, it is searched.",
    ),
    click.option(
        "--strip-prefix",
        metavar="PREFIX",
        help="Use only the names that start with PREFIX, such as 'model.', and remove it. By "
        "default, a prefix that all names have is removed.",
    ),
    click.option(
        "--flush-denormals",
        is_flag=True,
        help="Set weights below 1.2e-38 to zero. They make some processors many times slower.",
    ),
)
_classes_options = together(
    click.option("--classes", type=int, help="Number of classes. Default: that of the names."),
    click.option(
        "--class-names",
        metavar="FILE|A,B,...",
        help="Names of the classes, in the order of the logits: a text file with one per line, a "
        "JSON list or dictionary, or names separated by commas.",
    ),
)
_input_options = together(
    click.option(
        "--preprocess",
        metavar="NAME",
        help="Take the input from torchvision:MODEL (such as torchvision:mobilenet_v3_small) or "
        "torchvision:WEIGHTS, or from MODULE:NAME of a torchvision transform, which runs its code. "
        "Other options override it.",
    ),
    click.option(
        "--input-shape",
        metavar="C,H,W",
        help="Shape of one sample as the model gets it. Default: from --preprocess or --crop.",
    ),
    click.option(
        "--input-dtype",
        type=click.Choice(["uint8", "float32"]),
        help="Type of raw samples: uint8 for images; float32 for samples that are not scaled, of "
        "any shape. Default: uint8.",
    ),
    click.option(
        "--mean",
        metavar="M,...",
        help="Mean of each channel, or one for all, for pixels in 0..1. Default: from "
        "--preprocess; 0 for float32.",
    ),
    click.option(
        "--std",
        metavar="S,...",
        help="Standard deviation of each channel, or one for all, for pixels in 0..1. Default: "
        "from --preprocess; 1 for float32.",
    ),
    click.option(
        "--colours",
        "--colors",
        "colours",
        type=click.Choice(["RGB", "BGR"], case_sensitive=False),
        help="Order of the colours that the model expects. Default: RGB.",
    ),
    click.option(
        "--resize",
        metavar="N|H,W",
        help="Resize images so that the shorter side has N pixels, or to H,W.",
    ),
    click.option("--crop", metavar="N|H,W", help="Then cut N x N or H x W pixels from the centre."),
    click.option(
        "--interpolation",
        type=click.Choice(["nearest", "bilinear", "bicubic"]),
        help="How to resize. Default: bilinear.",
    ),
    click.option(
        "--antialias/--no-antialias",
        default=None,
        help="Whether resizing averages over all pixels, as Pillow and torchvision do. Default: "
        "--antialias.",
    ),
)


@click.command(name="import")
@click.argument("weights", type=click.Path(path_type=Path))
@_model_options
@_input_options
@_classes_options
@_weights_options
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="Checkpoint folder to write."
)
@force_option
@outcome_of
def import_weights(
    progress: Progress,
    *,
    weights: Path,
    factory: str,
    arguments: tuple[str, ...],
    output: str | None,
    classes: int | None,
    class_names: str | None,
    preprocess: str | None,
    key: str | None,
    strip_prefix: str | None,
    flush_denormals: bool,
    out: Path,
    force: bool,
    **said: Any,
) -> Outcome:
    """Create a checkpoint from the weights of your model.

    WEIGHTS is a .safetensors file, or a file that torch.save or a training framework wrote. Only
    tensors are read from it.
    """
    import toolkit
    from toolkit.schema import ModelSpec, to_json

    checkpoint = toolkit.import_weights(
        weights,
        out=out,
        model=ModelSpec(
            factory=factory, arguments=_read_arguments(arguments), output=_read_output(output)
        ),
        preprocess=_read_input(preprocess, **said),
        classes=classes,
        class_names=() if class_names is None else _read_class_names(class_names),
        key=key,
        strip_prefix=strip_prefix,
        flush_denormals=flush_denormals,
        force=force,
    )
    return Outcome(
        record={"path": str(out), **to_json(checkpoint)},
        text=f"{out}: checkpoint written, sha256 {checkpoint.sha256[:12]}; "
        f"next: toolkit export {out}",
    )


def _read_input(
    preprocess: str | None,
    *,
    input_shape: str | None,
    input_dtype: Any,
    mean: str | None,
    std: str | None,
    colours: Any,
    resize: str | None,
    crop: str | None,
    interpolation: Any,
    antialias: bool | None,
) -> Preprocessing:
    """Return what the options say about the input; they override `preprocess`."""
    from toolkit.checkpoints.input_spec import Preprocessing

    def numbers(flag: str, text: str | None, kind: type) -> tuple[Any, ...] | None:
        return None if text is None else read_numbers(flag, text, kind)

    said = Preprocessing(
        shape=numbers("--input-shape", input_shape, int),
        mean=numbers("--mean", mean, float),
        std=numbers("--std", std, float),
        dtype=input_dtype,
        colours=colours,
        resize=numbers("--resize", resize, int),
        crop=numbers("--crop", crop, int),
        interpolation=interpolation,
        antialias=antialias,
    )
    if preprocess is None:
        return said
    from toolkit.checkpoints.presets import read_preprocessing

    return said.over(read_preprocessing(preprocess))


def _read_arguments(texts: tuple[str, ...]) -> dict[str, int | float | str | bool]:
    """Parse `("num_classes=10", "pretrained=false")`."""
    arguments = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.isidentifier() or name in arguments:
            raise click.BadParameter(
                f"{text!r}: expected NAME=VALUE, each name once", param_hint="--model-argument"
            )
        arguments[name] = _read_value(value)
    return arguments


def _read_value(text: str) -> int | float | str | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    if text == "None":
        raise click.BadParameter(
            "'None' cannot be recorded; leave the argument out if None is its default, or write a "
            "factory that sets it",
            param_hint="--model-argument",
        )
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?", text, re.IGNORECASE):
        return float(text) if math.isfinite(float(text)) else text
    return text


def _read_output(text: str | None) -> str | int | None:
    if text is None:
        return None
    return int(text) if re.fullmatch(r"-?[0-9]{1,9}", text) else text


def _read_class_names(text: str) -> tuple[str, ...]:
    """Return the names in a file, one per line or a JSON list; or names separated by commas."""
    path, is_file = Path(text), False
    with contextlib.suppress(OSError):  # many names are no path: too long
        is_file = path.is_file()
    if not is_file:
        if "," not in text:
            raise click.BadParameter(
                f"{text!r} is no file; expected a file, or names separated by commas",
                param_hint="--class-names",
            )
        return tuple(each.strip() for each in text.split(","))
    from toolkit.files import read_regular

    try:
        content = read_regular(path, most_bytes=_MOST_BYTES).decode("utf-8-sig")
        is_json = path.suffix == ".json"
        names = _listed(json.loads(content)) if is_json else content.strip().splitlines()
    except (OSError, ValueError, RecursionError) as error:
        raise click.BadParameter(
            f"{path}: {error}; expected one name per line, or JSON",
            param_hint="--class-names",
        ) from error
    if not names:
        raise click.BadParameter(
            f"{path} is empty; expected one name per line, or JSON", param_hint="--class-names"
        )
    return tuple(each.strip() for each in names)


def _listed(found: object) -> list[str]:
    """Return names from JSON: a list, or a dictionary from index to name or from name to index."""
    if isinstance(found, dict) and all(isinstance(each, int) for each in found.values()):
        found = {str(index): name for name, index in found.items()}
    if isinstance(found, dict):
        found = [found.get(str(index)) for index in range(len(found))]
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise ValueError("no list of names")
    return found
