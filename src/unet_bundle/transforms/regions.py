"""Regions: sets of classes that may overlap, such as a whole tumour and its core, and the label map they give.

The scheme is nnU-Net's for BraTS (Isensee et al. 2021, https://doi.org/10.1007/978-3-030-72087-2_11).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_dst_type

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.transforms.naming import name_of

Regions = Mapping[str, Sequence[int]]
"""Name of each region to the classes it is made of, in the order in which regions are painted."""


def painted_values(regions: Regions) -> list[int]:
    """The class that each region is painted with: the one that no region after it holds.

    Painted in their order, regions then give back the label map they were taken from.

    Raises:
        ConfigError: if there is not exactly one such class.

    Example:
        >>> painted_values({"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]})
        [1, 2, 3]
    """
    values: list[int] = []
    names = list(regions)
    for number, name in enumerate(names):
        later = {value for other in names[number + 1 :] for value in regions[other]}
        own = [value for value in regions[name] if value not in later]
        if not own:
            raise ConfigError(
                f"region {name!r} would be painted over wholly by the regions after it: name larger regions first"
            )
        if len(own) > 1:
            raise ConfigError(
                f"region {name!r} cannot be painted: no region after it tells its values {own} apart; give one of them "
                "a region of its own, or merge them by label_values"
            )
        values += own
    return values


def paint_regions(masks: torch.Tensor, values: Sequence[int], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """A label map of regions, each painted over those before it.

    Args:
        masks: which voxels belong to each region; bool, shape [regions, ...].
        values: see `painted_values`.
        dtype: of the label map.

    Returns:
        Shape [...]; 0 where there is no region.
    """
    label = torch.zeros(masks.shape[1:], dtype=dtype, device=masks.device)
    for mask, value in zip(masks, values, strict=True):
        label.masked_fill_(mask, value)
    return label


def region_masks(label: torch.Tensor, regions: Regions, dim: int = 0) -> torch.Tensor:
    """Which voxels of a label map belong to each region; bool.

    Args:
        label: classes, with a single channel at `dim`.
        regions: see `Regions`.
        dim: of the channel, which becomes that of the regions.
    """
    masks = []
    for values in regions.values():
        mask = label == values[0]
        for value in values[1:]:
            mask |= label == value
        masks.append(mask)
    return torch.cat(masks, dim=dim)


class PaintRegionsd(MapTransform):
    """Make a label map of the scores of regions: a region is where its score is above 0, its probability above a half.

    Args:
        keys: keys of the scores, shape [regions, *spatial].
        regions: see `Regions`.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.

    Raises:
        ConfigError: if the regions cannot be painted.

    Example:
        >>> paint = PaintRegionsd("pred", regions={"whole": [1, 2], "core": [2]})
        >>> paint({"pred": torch.tensor([[-1.0, 1.0, 1.0], [-1.0, -1.0, 1.0]])})["pred"]
        tensor([[0., 1., 2.]])
    """

    def __init__(self, keys: str | Sequence[str], regions: Regions, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.values = painted_values(regions)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace scores by the label map, shape [1, *spatial]: same type, same metadata."""
        painted = dict(data)
        for key in self.key_iterator(painted):
            scores = painted[key]
            masks = torch.as_tensor(scores).as_subclass(torch.Tensor) > 0
            label = paint_regions(masks, self.values, scores.dtype)[None]
            painted[key] = MetaTensor(label, meta=scores.meta) if isinstance(scores, MetaTensor) else label
        return painted


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
