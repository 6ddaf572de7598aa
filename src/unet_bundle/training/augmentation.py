"""Augmentation of a batch on the device that trains, so that the loader only reads and crops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.data import list_data_collate
from monai.engines import default_prepare_batch
from monai.utils.enums import CommonKeys as Keys

from unet_bundle.transforms import RandIntensityd, RandSpatiald
from unet_bundle.transforms.spatial import DRAW


def collate(samples: Sequence[Any]) -> Any:
    """A batch: stacked patches, or, where augmentation is deferred to the device, the samples as they are.

    What a patch needs of its scan differs in size from sample to sample, so it cannot be stacked before it is sampled.
    """
    return list(samples) if isinstance(samples[0], Mapping) and DRAW in samples[0] else list_data_collate(samples)


class PrepareBatch:
    """The `prepare_batch` of MONAI's engines: to the device, and there what the loader deferred.

    The transforms and the draws are the loader's own, so the patches are the same, wherever they are computed.

    Args:
        spatial: the transform that drew and cropped.
        intensity: the transform that drew the changes of intensity.
        weight_key: key of the weights of each voxel in the loss, if there are any.
    """

    def __init__(self, spatial: RandSpatiald, intensity: RandIntensityd, weight_key: str | None = None) -> None:
        self.spatial = spatial
        self.intensity = intensity
        self.weight_key = weight_key

    def __call__(
        self, batch: Any, device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, ...]:
        """Image, label and, with a `weight_key`, weights: each of shape [batch, channels, *patch], on the device."""
        if isinstance(batch, list):
            kind = torch.device(device or "cpu").type
            with torch.no_grad(), torch.autocast(kind, enabled=False):
                samples = [self._augmented(sample, device, non_blocking) for sample in batch]
            keys = (Keys.IMAGE, Keys.LABEL, *([] if self.weight_key is None else [self.weight_key]))
            batch = {key: torch.stack([sample[key] for sample in samples]) for key in keys}
        image, label = default_prepare_batch(batch, device, non_blocking, **kwargs)[:2]
        assert label is not None  # noqa: S101  (training has labels)
        prepared = [image, label]
        if self.weight_key is not None:
            prepared.append(batch[self.weight_key].to(device, non_blocking=non_blocking))
        # Without metadata: they would be carried through every operation of the network.
        return tuple(each.as_subclass(torch.Tensor) for each in prepared)

    def _augmented(
        self, sample: Mapping[Any, Any], device: torch.device | str | None, non_blocking: bool
    ) -> dict[Any, Any]:
        there = {
            key: value.to(device, non_blocking=non_blocking) if isinstance(value, torch.Tensor) else value
            for key, value in sample.items()
        }
        return self.intensity.finish(self.spatial.finish(there))
