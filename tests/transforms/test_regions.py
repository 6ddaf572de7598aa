"""Regions that overlap as one label map."""

import pytest
import torch
from monai.data import MetaTensor

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.transforms import MergeRegionsd


def test_later_regions_hide_earlier_ones():
    regions = MetaTensor(torch.tensor([[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=torch.uint8)[:, :, None])
    merged = MergeRegionsd("pred", values=[2, 1, 300])({"pred": regions})["pred"]
    assert merged.shape == (1, 4, 1)
    assert merged.flatten().tolist() == [2, 1, 300, 300]
    assert isinstance(merged, MetaTensor)


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="whole number above 0"):
        MergeRegionsd("pred", values=[1, 0])
    with pytest.raises(InputError, match="3 regions, 2 values"):
        MergeRegionsd("pred", values=[1, 2])({"pred": torch.ones(3, 4, 4)})
