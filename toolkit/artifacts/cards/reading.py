"""Code that makes a model's input from a file, with numpy and Pillow alone.

In: a contract. Out: the lines of a function `read(path)`, as a person would write them.
"""

from __future__ import annotations

from collections.abc import Iterator

from toolkit.schema import Contract, InputSpec


def reads_images(contract: Contract) -> bool:
    """Return whether a raw sample is a grey or RGB image, which Pillow reads."""
    spec = contract.preprocessing
    return spec.dtype == "uint8" and len(spec.shape) == 3 and spec.shape[0] in (1, 3)


def reading_code(contract: Contract) -> str:
    """Return the code of `read(path)`: one file → one sample in the shape and dtype that the model
    takes."""
    shape = f"{contract.dtype} {list(contract.shape)}"
    if reads_images(contract):
        lines = [f'    """Return an image as the model takes it: {shape}."""']
        lines += _image_lines(contract)
    else:
        raw = f"{contract.preprocessing.dtype} {list(contract.preprocessing.shape)}"
        lines = [
            f'    """Return a sample, stored by numpy.save, as the model takes it: {shape}."""',
            f"    raw = np.load(path)  # {raw}",
        ]
    # Some runtimes take a wrong shape in silence, or crash on it.
    lines.append(f"    assert raw.shape == {contract.preprocessing.shape}, (path, raw.shape)")
    constants, last = _scaling(contract)
    return "\n".join([*constants, "def read(path):", *lines, last])


def _image_lines(contract: Contract) -> Iterator[str]:
    spec = contract.preprocessing
    grey = spec.shape[0] == 1
    yield f'    image = Image.open(path).convert("{"L" if grey else "RGB"}")'
    if spec.resize:
        yield from _resizing(spec)
    if spec.crop is not None:
        height, width = spec.crop
        yield f"    left = round((image.width - {width}) / 2)"
        yield f"    top = round((image.height - {height}) / 2)"
        yield f"    image = image.crop((left, top, left + {width}, top + {height}))"
    if grey:
        yield "    raw = np.asarray(image)[None]  # [C,H,W]"
    elif spec.colours == "BGR" and not contract.embeds_preprocessing:
        yield "    raw = np.asarray(image)[:, :, ::-1].transpose(2, 0, 1)  # [C,H,W], BGR"
    else:
        yield "    raw = np.asarray(image).transpose(2, 0, 1)  # [C,H,W]"


def _resizing(spec: InputSpec) -> Iterator[str]:
    """Resize as Pillow does, or, without antialiasing, by sampling at the centres of pixels."""
    if len(spec.resize) == 1:  # the shorter side
        yield "    short = min(image.size)"
        yield f"    size = [{spec.resize[0]} * side // short for side in image.size]"
    else:
        height, width = spec.resize
        yield f"    size = [{width}, {height}]"
    method = f"Image.Resampling.{spec.interpolation.upper()}"
    if spec.antialias or spec.interpolation == "nearest":
        yield f"    image = image.resize(size, {method})"
        return
    yield "    steps = (image.width / size[0], 0, 0, 0, image.height / size[1], 0)"
    yield f"    image = image.transform(size, Image.Transform.AFFINE, steps, {method})"


def _scaling(contract: Contract) -> tuple[list[str], str]:
    """Return the constants, and the line that scales and normalises."""
    spec = contract.preprocessing
    if contract.embeds_preprocessing:  # the file does it, and the order of the colours
        return [], "    return raw"
    scaled = "raw.astype(np.float32)" + (" / 255" if spec.dtype == "uint8" else "")
    if set(spec.mean) == {0} and set(spec.std) == {1}:
        return [], f"    return {scaled}"
    constants = [_constant("MEAN", spec.mean, spec), _constant("STD", spec.std, spec), "", ""]
    return constants, f"    return ({scaled} - MEAN) / STD"


def _constant(name: str, values: tuple[float, ...], spec: InputSpec) -> str:
    if len(values) == 1:
        return f"{name} = np.float32({values[0]!r})"
    ones = "".join(", 1" for _ in spec.shape[1:])
    return f"{name} = np.float32({list(values)!r}).reshape(-1{ones})"
