"""Dice and cross-entropy with a weight for every voxel, under deep supervision."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.losses import DeepSupervisionLoss, DiceLoss
from monai.networks import one_hot
from torch.nn import functional as F
from torch.nn.modules.loss import _Loss


class WeightedDiceCELoss(_Loss):
    """Soft Dice plus cross-entropy of exclusive classes, with a weight for every voxel.

    The cross-entropy is the weighted mean over voxels; Dice counts the voxels whose weight is not 0, all alike, so that
    a weight of 0 takes a voxel out of both. With weights of 1 it is MONAI's ``DiceCELoss`` with ``softmax`` and
    ``to_onehot_y``. Computed in float32.

    Args:
        include_background: whether Dice counts the background as a class.
        batch: whether Dice is taken over the whole batch instead of case by case.
    """

    def __init__(self, include_background: bool = False, batch: bool = True) -> None:
        super().__init__()
        self.dice = DiceLoss(include_background=include_background, batch=batch)

    def forward(
        self,
        input: torch.Tensor,  # noqa: A002
        target: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss, a scalar; 0 for the cross-entropy where all weights are 0.

        Args:
            input: logits, shape [batch, classes, *spatial].
            target: class indices, shape [batch, 1, *spatial].
            weights: of at least 0, shape [batch, 1, *spatial]; None: all 1.
        """
        logits = input.float()
        shares, truth = logits.softmax(dim=1), one_hot(target, num_classes=logits.shape[1])
        voxelwise = F.cross_entropy(logits, target[:, 0].long(), reduction="none")
        if weights is None:
            entropy = voxelwise.mean()
        else:
            weights = weights.float()
            counted = (weights > 0).to(shares.dtype)
            shares, truth = shares * counted, truth * counted
            total = weights.sum().clamp(min=torch.finfo(weights.dtype).tiny)
            entropy = (voxelwise * weights[:, 0]).sum() / total
        loss: torch.Tensor = self.dice(shares, truth) + entropy
        return loss


class WeightedDeepSupervisionLoss(DeepSupervisionLoss):
    """MONAI's ``DeepSupervisionLoss`` for a loss that takes weights: they shrink to each head as the labels do.

    Args:
        loss: of (logits, targets, weights).
        weight_mode: how much a head counts, see MONAI's.
    """

    def __init__(self, loss: _Loss, weight_mode: str = "exp") -> None:
        super().__init__(loss, weight_mode=weight_mode)

    def forward(
        self,
        input: torch.Tensor | list[torch.Tensor] | None,  # noqa: A002
        target: torch.Tensor,
        weights: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss, a scalar.

        Args:
            input: logits, shape [batch, classes, *spatial]; or those of several heads, the finest first.
            target: class indices, shape [batch, 1, *spatial].
            weights: of each voxel, shape [batch, 1, *spatial]; None: all 1.

        Raises:
            ValueError: if there are no logits.
        """
        if input is None:
            raise ValueError("there are no logits to compute a loss of")
        heads = [input] if isinstance(input, torch.Tensor) else input
        total = torch.zeros((), device=target.device)
        for head, share in zip(heads, self.get_weights(len(heads)), strict=True):
            size = head.shape[2:]
            weights_there = None if weights is None else self._shrunk(weights, size)
            total = total + share * self.loss(head.float(), self._shrunk(target, size), weights_there)
        return total

    def _shrunk(self, voxels: torch.Tensor, size: Sequence[int]) -> torch.Tensor:
        if voxels.shape[2:] == size:
            return voxels
        return F.interpolate(voxels, size=tuple(size), mode=self.interp_mode)
