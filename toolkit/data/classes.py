"""Classes: names of folders, or labels in a table → numbers of the model's logits; pure functions.

In: the names that were found, and what the checkpoint knows. Out: class names in the order of the
labels. A name that is missing never moves the numbers of the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from toolkit.data.raw import Remarks, Wanted
from toolkit.errors import DatasetError

_LISTED = 10
_MOST_DIGITS = 18
_LEFT_BEHIND = {
    "__macosx",
    "__pycache__",
    "lost+found",
    "$recycle.bin",
    "system volume information",
}


def is_left_behind(name: str) -> bool:
    """Return whether a folder or file of this name is never part of a data set: it is hidden, or
    systems and programs leave it behind."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def is_number(name: str) -> bool:
    """Return whether a name is a number of the size that labels and years have."""
    return name.isascii() and name.isdigit() and len(name) <= _MOST_DIGITS


def in_order(names: Collection[str]) -> list[str]:
    """Return names sorted: as numbers if all are numbers, otherwise as text."""
    if all(map(is_number, names)):
        return sorted(names, key=lambda each: (int(each), each))
    return sorted(names)


def choose_classes(
    found: Collection[str],
    wanted: Wanted,
    *,
    where: str,
    empty: Collection[str] = (),
    remarks: Remarks,
) -> tuple[str, ...]:
    """Return the class names in the order of the labels.

    Args:
        found: Names that samples have.
        wanted: The checkpoint's names are used if it has any.
        where: The place of the names, for messages.
        empty: Names without samples, such as empty folders. They count only if the number of
            classes says so.
        remarks: Receives what was decided.

    Raises:
        DatasetError: The names do not say which label each class has.
    """
    if wanted.class_names:
        return _of_checkpoint(found, wanted.class_names, where, remarks)
    names, count = in_order(found), wanted.classes
    if count is not None and len(names) != count:
        if _are_labels(names, count):
            return tuple(map(str, range(count)))
        names = in_order({*found, *empty})
        if len(names) != count:
            raise _wrong_number(in_order(found), count, where)
    elif empty:
        remarks.warnings.append(f"{where}: skipped {listed(in_order(empty))}: no images")
    if names != sorted(names):
        remarks.warnings.append(
            f"{where}: the class names are numbers and are sorted as numbers ({listed(names)}); "
            "torchvision's ImageFolder sorts them as text: if the model was trained so, import it "
            "with --class-names in its order"
        )
    return tuple(names)


def _of_checkpoint(
    found: Collection[str], class_names: tuple[str, ...], where: str, remarks: Remarks
) -> tuple[str, ...]:
    """Return the checkpoint's names; say which of those found are not among them."""
    other = in_order({*found} - {*class_names})
    if len(other) == len(found):
        raise DatasetError(
            f"{where}: none of its classes ({listed(other)}) is a class of the checkpoint "
            f"({listed(class_names)}); rename them, or import the checkpoint with other "
            "--class-names"
        )
    if other:
        remarks.warnings.append(
            f"{where}: skipped {listed(other)}: not among the checkpoint's classes "
            f"({listed(class_names)})"
        )
    return class_names


def _are_labels(names: Sequence[str], count: int) -> bool:
    """Return whether all names are labels themselves: 0 to `count` - 1 without leading zeros."""
    return all(is_number(each) and each == str(int(each)) for each in names) and (
        all(int(each) < count for each in names)
    )


def _wrong_number(names: Sequence[str], count: int, where: str) -> DatasetError:
    return DatasetError(
        f"{where}: {len(names)} classes ({listed(names)}), but the checkpoint has {count}: their "
        "labels are not known; import the checkpoint with --class-names, or "
        + ("add a folder for each missing class" if len(names) < count else "remove the others")
    )


def missing_classes(
    class_names: Sequence[str], labels: Collection[int], *, split: str, remarks: Remarks
) -> None:
    """Add a warning with the names of the classes that no sample of the split has."""
    missing = [name for number, name in enumerate(class_names) if number not in labels]
    if missing:
        remarks.warnings.append(
            f"no {split} images of {'class' if len(missing) == 1 else 'classes'} {listed(missing)}"
        )


def listed(names: Collection[str]) -> str:
    """Return the first names, separated by commas."""
    shown = list(names)[:_LISTED]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")
