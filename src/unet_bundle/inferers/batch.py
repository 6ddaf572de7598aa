"""The images of a batch, each with its own metadata, and their answers together again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor, decollate_batch
from monai.data.utils import collate_meta_tensor_fn

from unet_bundle.errors import InputError


def batched(answers: Sequence[torch.Tensor]) -> torch.Tensor:
    """Answers together; a single one, which may be larger than memory, as it is.

    Raises:
        InputError: they differ in size.
    """
    sizes = {tuple(answer.shape[1:]) for answer in answers}
    if len(sizes) > 1:
        raise InputError(f"the scans of a batch differ in size ({sorted(sizes)}): segment one at a time")
    plain = [answer.as_subclass(torch.Tensor) for answer in answers]
    together = plain[0][None] if len(plain) == 1 else torch.stack(plain)
    if not isinstance(answers[0], MetaTensor):
        return together
    metadata = collate_meta_tensor_fn([answer[:0] for answer in answers])
    batch = MetaTensor(together)
    batch.copy_meta_from(metadata)
    return batch


def items_of(inputs: torch.Tensor) -> list[torch.Tensor]:
    """The images of a batch, each with its own metadata."""
    if isinstance(inputs, MetaTensor) and inputs.is_batch:
        return list(decollate_batch(inputs, detach=False))
    return [inputs[number] for number in range(len(inputs))]


def grids_of(image: torch.Tensor) -> tuple[tuple[int, ...], Any, Any]:
    """Shape and affine of the scan, and the affine of the image the network sees."""
    rank = image.ndim - 1
    own = tuple(int(side) for side in image.shape[1:])
    if not isinstance(image, MetaTensor):
        return own, np.eye(4), np.eye(4)
    if "original_affine" not in image.meta or "spatial_shape" not in image.meta:
        return own, image.affine, image.affine
    shape = tuple(int(side) for side in np.ravel(image.meta["spatial_shape"]))[:rank]
    return shape, image.meta["original_affine"], image.affine
