"""Label maps whose values are the classes of the plan, or a refusal."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from monai.transforms import MapTransform

from unet_bundle.errors import InputError


class CheckLabelsd(MapTransform):
    """Refuse a label map with a value that is no class.

    A loss would cut 1.9 down to 1 without a word, and fail at an unknown class far from the case that has it.

    Args:
        keys: keys of the label maps.
        num_classes: values are the whole numbers from 0 (background) to `num_classes` - 1.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.

    Raises:
        InputError: when called, if a label map has another value.

    Example:
        >>> CheckLabelsd("label", num_classes=3)({"label": torch.tensor([0.0, 2.0])})["label"].max()
        tensor(2.)
    """

    def __init__(self, keys: str | Sequence[str], num_classes: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.num_classes = num_classes

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return `data` as it is."""
        for key in self.key_iterator(dict(data)):
            label = torch.as_tensor(data[key])
            wrong = label[(label != label.round()) | (label < 0) | (label >= self.num_classes)]
            if wrong.numel():
                source = getattr(data[key], "meta", {}).get("filename_or_obj", f"the {key}")
                raise InputError(
                    f"{Path(str(source)).name} has {wrong.numel()} voxels of value {wrong.flatten()[0].item():g} or"
                    f" another that is no class: labels must be whole numbers from 0 to {self.num_classes - 1}"
                )
        return dict(data)
