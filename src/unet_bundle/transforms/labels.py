"""Label maps whose values are the classes of the plan, or a refusal."""

import itertools
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.transforms.naming import name_of

REST = "rest"
"""In the list of a class: it gets the values that no list names."""

UNKNOWN = -1
LARGEST_VALUE = 2**24
"""Label files are read as float32, which holds whole numbers up to this one exactly."""

_RANGE = re.compile(r"\s*([0-9]+)\s*-\s*([0-9]+)\s*")


class LabelValues:
    """Which values of label files are which class.

    Args:
        values: for each class a list of whole numbers, ranges as text (``"1-65535"``, both ends included) and, for one
            class at most, ``"rest"``. 0 is the background and need not be listed.

    Raises:
        ConfigError: if an entry is none of these, or a value is listed twice.

    Example:
        >>> LabelValues([[], [5], ["25-50", 52]]).classes(np.array([0, 5, 26, 52, 51]))
        array([ 0,  1,  2,  2, -1])
    """

    def __init__(self, values: Sequence[Sequence[int | str]]) -> None:
        self.rest = UNKNOWN
        ranges: list[tuple[int, int, int]] = []
        for number, entries in enumerate(values):
            for entry in entries:
                if entry == REST:
                    if self.rest != UNKNOWN:
                        raise ConfigError(f"label_values gives {REST!r} to two classes: only one can have it")
                    self.rest = number
                else:
                    ranges.append((*_first_and_last(entry), number))
        if not any(first == 0 for first, _, _ in ranges):
            ranges.append((0, 0, 0))
        ranges.sort()
        for one, other in itertools.pairwise(ranges):
            if other[0] <= one[1]:
                raise ConfigError(f"label_values lists {other[0]} twice: a value belongs to one class")
        if ranges[0][2] != 0:
            raise ConfigError("label_values gives 0 to a class: it is the background")
        self._first, self._last, self._class = np.array(ranges, dtype=np.int64).T

    def classes(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """The class of each value, `UNKNOWN` for one that is no whole number or belongs to none."""
        if values.dtype.kind == "f":
            values = np.nan_to_num(values, nan=UNKNOWN, posinf=UNKNOWN, neginf=UNKNOWN)
        whole = np.rint(values).astype(np.int64)  # whole numbers of 64 bits: their order is exact
        place = np.clip(np.searchsorted(self._first, whole, side="right") - 1, 0, None)
        listed = (whole >= self._first[place]) & (whole <= self._last[place])
        classes = np.where(listed, self._class[place], np.where(whole < 0, UNKNOWN, self.rest))
        result: npt.NDArray[np.int64] = np.where(whole == values, classes, UNKNOWN)
        return result


def _first_and_last(entry: int | str) -> tuple[int, int]:
    match = _RANGE.fullmatch(entry) if isinstance(entry, str) else None
    if match is not None:
        first, last = int(match[1]), int(match[2])
    elif isinstance(entry, int) and not isinstance(entry, bool):
        first = last = entry
    else:
        raise ConfigError(f"label_values has {entry!r}: give whole numbers, ranges such as '1-65535', or {REST!r}")
    if not 0 <= first <= last <= LARGEST_VALUE:
        raise ConfigError(f"label_values has {entry!r}: values run upwards from 0 to {LARGEST_VALUE}")
    return first, last


class MergeLabelsd(MapTransform):
    """Replace the values of a label file by the classes they belong to.

    Args:
        keys: keys of the label maps.
        values: for each class the values of the label files that become it; see `LabelValues`.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.

    Raises:
        ConfigError: as `LabelValues`.
        InputError: when called, if a label map has a value that belongs to no class.

    Example:
        >>> MergeLabelsd("label", values=[["rest"], [5], ["25-50"]])({"label": torch.tensor([0, 5, 26, 7])})["label"]
        tensor([0, 1, 2, 0])
    """

    def __init__(
        self, keys: str | Sequence[str], values: Sequence[Sequence[int | str]], allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.values = LabelValues(values)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each label map by one of classes: same type, same metadata."""
        merged = dict(data)
        for key in self.key_iterator(merged):
            label = merged[key]
            values = torch.as_tensor(label).as_subclass(torch.Tensor).cpu().numpy()
            classes = self.values.classes(values)
            unknown = values[classes == UNKNOWN]
            if unknown.size:
                raise InputError(
                    f"{name_of(label, key)} has {unknown.size} voxels of value {unknown.flat[0]:g} or another that "
                    "label_values does not list: correct the file, or state the value in the task card"
                )
            merged[key] = convert_to_dst_type(classes, label, dtype=label.dtype)[0]
        return merged


class CheckLabelsd(MapTransform):
    """Refuse a label map with a value that is no class.

    A loss would cut 1.9 down to 1 without a word, and fail at an unknown class far from the case that has it.

    Args:
        keys: keys of the label maps.
        num_classes: values are the whole numbers from 0 (background) to `num_classes` - 1.
        ignore_index: one more value, of voxels that nobody labelled; None if there is none.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.

    Raises:
        InputError: when called, if a label map has another value.

    Example:
        >>> CheckLabelsd("label", num_classes=3)({"label": torch.tensor([0.0, 2.0])})["label"].max()
        tensor(2.)
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        num_classes: int,
        ignore_index: int | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.num_classes = num_classes
        self.ignore_index = ignore_index

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return `data` as it is."""
        for key in self.key_iterator(dict(data)):
            label = torch.as_tensor(data[key])
            is_wrong = (label != label.round()) | (label < 0) | (label >= self.num_classes)
            wrong = label[is_wrong if self.ignore_index is None else is_wrong & (label != self.ignore_index)]
            if wrong.numel():
                raise InputError(
                    f"{name_of(data[key], key)} has {wrong.numel()} voxels of value {wrong.flatten()[0].item():g} or"
                    f" another that is no class: labels must be whole numbers from 0 to {self.num_classes - 1}"
                )
        return dict(data)
