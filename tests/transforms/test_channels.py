import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.transforms import NormalizeChannelsd, RandDropChannelsd, RandIntensityd


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_channels_are_dropped_as_often_as_asked_for_but_never_all(channels):
    image = torch.rand(channels, 4, 4, 4) + 1
    drop = RandDropChannelsd("image", prob=0.4).set_random_state(0)
    kept = []
    for _ in range(500):
        dropped = drop({"image": image})["image"]
        present = dropped.flatten(1).any(1)
        assert torch.equal(dropped[present], image[present])
        kept.append(present.numpy())
    assert np.any(kept, axis=1).all(), "never all of them"
    all_dropped = 0.4**channels / channels  # one of them comes back then
    assert 1 - np.mean(kept) == pytest.approx(0.4 - all_dropped, abs=0.05)
    assert (image > 0).all(), "the scan itself stays"


def test_within_the_chain_of_intensities_the_seed_decides():
    chain = RandIntensityd([RandDropChannelsd("image", prob=0.5)], deferred=True).set_random_state(3)
    items = [chain({"image": torch.ones(3, 2, 2)}) for _ in range(8)]
    first, again = ([chain.finish(item)["image"] for item in items] for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert len({tuple(image.flatten().tolist()) for image in first}) > 1


@pytest.mark.parametrize("prob", [-0.1, 1.0])
def test_all_or_less_than_nothing_is_refused(prob):
    with pytest.raises(ConfigError, match="channel_dropout must be from 0 to below 1"):
        RandDropChannelsd("image", prob=prob)


def test_a_missing_channel_is_zero_after_normalisation_and_an_empty_one_is_refused():
    voxels = torch.stack([torch.rand(5, 6, 7) * 100, torch.zeros(5, 6, 7)])
    normalize = NormalizeChannelsd("image", [{"scheme": "zscore"}] * 2)
    image = MetaTensor(voxels, meta={"filename_or_obj": "case.nii.gz", "missing_channels": [1]})
    done = normalize({"image": image})["image"]
    assert not done[1].any()
    assert done[0].std() == pytest.approx(1, abs=0.01)
    statistics = {"scheme": "ct", "lower": -50, "upper": 300, "mean": 100, "std": 40}
    assert not NormalizeChannelsd("image", [{"scheme": "zscore"}, statistics])({"image": image})["image"][1].any()
    with pytest.raises(InputError, match="one value only"):
        normalize({"image": MetaTensor(voxels, meta={"filename_or_obj": "case.nii.gz"})})
