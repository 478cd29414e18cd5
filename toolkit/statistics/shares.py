"""Counts of images → shares with bounds; pure functions.

`confidence` is one-sided, for each bound on its own (0.975: together they hold 95 %).
"""

from __future__ import annotations

from collections.abc import Callable

from toolkit.schema import Bound

_MOST_IMAGES = 100_000_000
_GROWTH = 1.02  # growth of the number of images in the search for the needed number


def rate(count: int, images: int, confidence: float) -> Bound:
    """Return the share `count / images` with its Clopper-Pearson bounds (Clopper and Pearson 1934).

    Raises:
        ValueError: No images, or more counted than there are.
    """
    if not 0 <= count <= images or images < 1:
        raise ValueError(f"{count} of {images} images is not a valid share")
    from scipy.special import betaincinv

    low = 0.0 if count == 0 else float(betaincinv(count, images - count + 1, 1 - confidence))
    high = 1.0 if count == images else float(betaincinv(count + 1, images - count, confidence))
    return Bound(value=count / images, low=low, high=high)


def accuracy_drop(lost: int, won: int, images: int, confidence: float) -> Bound:
    """Return the reference's accuracy minus the candidate's, with exact bounds for paired answers.

    `lost` counts images that only the reference has right, `won` those that only the candidate has
    right. Given how many images differ, `lost` is binomial (McNemar 1947): Clopper-Pearson bounds
    of its share, times Clopper-Pearson bounds of the share of images that differ. Each of the two
    may be wrong in half of the cases that the confidence allows, so that both hold together.

    Raises:
        ValueError: As for `rate`.
    """
    each = (1 + confidence) / 2
    differing = rate(lost + won, images, each)
    share = rate(lost, lost + won, each) if lost + won else Bound(value=0.5, low=0.0, high=1.0)
    value = (lost - won) / images
    low, high = 2 * share.low - 1, 2 * share.high - 1
    return Bound(
        value=value,
        low=low * (differing.high if low < 0 else differing.low),
        high=high * (differing.high if high > 0 else differing.low),
    )


def needed_images(bounds: Callable[[float], Bound], gate: float, *, images: int) -> int | None:
    """Return about how many images would decide whether a share lies below `gate`, if the rest of
    the images are like these; None if even 100 million would not.

    `bounds` gives the bounds for a multiple of the images.
    """
    factor = 1.0
    while factor * images <= _MOST_IMAGES:
        found = bounds(factor)
        if found.high <= gate or found.low > gate:
            return round(factor * images)
        factor *= _GROWTH
    return None


def percent(share: float, *, beside: float | None = None) -> str:
    """Return a share with two digits, `0.037%`; with more if `beside` would read the same."""
    return f"{_digits(100 * share, beside, 'g')}%" if share < 0.995 else "100%"


def points(share: float, *, beside: float | None = None) -> str:
    """Return percentage points with two decimals, `0.10`; with more if `beside` would read the
    same."""
    return _digits(100 * share, beside, "f")


def _digits(value: float, beside: float | None, kind: str) -> str:
    """Return enough digits to tell `value` from `100 * beside`, from 2 to 5."""
    for digits in range(2, 6):
        text = f"{value:.{digits}{kind}}"
        if beside is None or text != f"{100 * beside:.{digits}{kind}}":
            break
    return text
