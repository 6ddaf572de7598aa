"""Dice and cross-entropy over the voxels that somebody labelled: the loss of sparse annotations."""

from __future__ import annotations

import torch
from torch import nn

from unet_bundle.training.losses import WeightedDiceCELoss


class IgnoreDiceCELoss(nn.Module):
    """MONAI's ``DiceCELoss`` with softmax, without the voxels that nobody labelled: they have no weight, no gradient.

    The weight of 0 for unlabelled voxels is that of the 3D U-Net (Çiçek et al. 2016, https://arxiv.org/abs/1606.06650).
    Cross-entropy is the mean over the other voxels; 0 if there are none. Where every voxel is labelled the value is
    that of ``DiceCELoss(to_onehot_y=True, softmax=True)``. Labels may have been made smaller by nearest neighbours, as
    ``DeepSupervisionLoss`` does.

    Args:
        ignore_index: value of unlabelled voxels, which is no class.
        include_background: whether the Dice part counts the background.
        batch: whether the Dice part is that of the whole batch, instead of the mean over its items.

    Example:
        >>> loss = IgnoreDiceCELoss(ignore_index=2)
        >>> logits = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 9.0, 9.0]]])
        >>> float(loss(logits, torch.tensor([[[0.0, 1.0, 2.0]]]))) < 0.01
        True
    """

    def __init__(self, ignore_index: int, include_background: bool = True, batch: bool = False) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        self.loss = WeightedDiceCELoss(include_background, batch)

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """The loss, a scalar.

        Args:
            logits: shape [batch, classes, *spatial].
            label: classes or `ignore_index`, shape [batch, 1, *spatial].
        """
        counted = label != self.ignore_index
        loss: torch.Tensor = self.loss(logits, label * counted, counted)
        return loss
