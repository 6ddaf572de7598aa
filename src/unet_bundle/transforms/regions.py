"""Regions that overlap, as one label map."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.transforms.naming import name_of


class MergeRegionsd(MapTransform):
    """Write regions over each other into one label map, each with its value; later ones hide earlier ones.

    As nnU-Net does with networks that were trained on regions (its ``regions_class_order``): a tumour, its core in it.

    Args:
        keys: keys of the regions, tensors of shape [regions, *spatial], 0 or 1.
        values: the value of each region.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.

    Raises:
        ConfigError: if a value is no whole number above 0.
        InputError: when called, for another number of regions than values.

    Example:
        >>> MergeRegionsd("pred", values=[1, 2])({"pred": torch.tensor([[1, 1, 0], [0, 1, 0]])})["pred"]
        tensor([[1, 2, 0]])
    """

    def __init__(self, keys: str | Sequence[str], values: Sequence[int], allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if not values or not all(isinstance(value, int) and value > 0 for value in values):
            raise ConfigError(f"values of regions are {values!r}: give a whole number above 0 for each")
        self.values = list(values)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace regions by a label map of shape [1, *spatial], same metadata."""
        merged = dict(data)
        for key in self.key_iterator(merged):
            regions = merged[key]
            if len(regions) != len(self.values):
                raise InputError(
                    f"{name_of(regions, key)} has {len(regions)} regions, {len(self.values)} values are stated for them"
                )
            kind = torch.uint8 if max(self.values) <= torch.iinfo(torch.uint8).max else torch.int32
            kind = regions.dtype if regions.dtype == torch.int64 else kind
            plain = torch.as_tensor(regions).as_subclass(torch.Tensor)
            labels = plain.new_zeros((1, *plain.shape[1:]), dtype=kind)
            for region, value in zip(plain, self.values, strict=True):
                labels[0][region > 0] = value
            merged[key] = convert_to_dst_type(labels, regions, dtype=kind)[0]
        return merged
