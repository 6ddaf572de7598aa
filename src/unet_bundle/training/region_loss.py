"""Dice and binary cross-entropy of regions that may overlap."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import nn
from torch.nn import functional

from unet_bundle.transforms import Regions, region_masks


class RegionDiceBCELoss(nn.Module):
    """A binary segmentation for each region: Dice of the sigmoid and binary cross-entropy, both the mean over regions.

    Takes a label map, as losses of classes do: what is made of it on the way (augmentation, smaller label maps for deep
    supervision) stays the same, and regions are made last.

    Args:
        regions: name of each region to the classes it is made of; the network has a channel for each, in their order.
        ignore_index: value of unlabelled voxels, which have no weight and no gradient; None if there are none.
        batch: whether the Dice part is that of the whole batch, instead of the mean over its items.

    Example:
        >>> loss = RegionDiceBCELoss({"whole": [1, 2], "core": [2]})
        >>> logits = torch.tensor([[[-9.0, 9.0, 9.0], [-9.0, -9.0, 9.0]]])
        >>> float(loss(logits, torch.tensor([[[0.0, 1.0, 2.0]]]))) < 0.01
        True
    """

    def __init__(self, regions: Regions, ignore_index: int | None = None, batch: bool = False) -> None:
        super().__init__()
        self.regions = {name: list(values) for name, values in regions.items()}
        self.ignore_index = ignore_index
        self.dice = DiceLoss(batch=batch)

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar.

        Args:
            logits: shape [batch, regions, *spatial].
            label: classes or `ignore_index`, shape [batch, 1, *spatial].
        """
        target = region_masks(label, self.regions, dim=1).to(logits.dtype)  # unlabelled voxels are in no region
        shares = logits.sigmoid()
        if self.ignore_index is None:
            entropy = functional.binary_cross_entropy_with_logits(logits, target)
        else:
            counted = (label != self.ignore_index).to(logits.dtype)
            shares = shares * counted
            entropy = functional.binary_cross_entropy_with_logits(
                logits, target, weight=counted.expand_as(logits), reduction="sum"
            ) / (counted.sum() * len(self.regions)).clamp(min=1)
        dice: torch.Tensor = self.dice(shares, target)
        return dice + entropy
