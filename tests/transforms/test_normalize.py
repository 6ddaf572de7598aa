import pickle

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data import MetaTensor

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.transforms import NormalizeChannelsd

ZSCORE = {"scheme": "zscore"}
CT = {"scheme": "ct", "lower": -100.0, "upper": 300.0, "mean": 50.0, "std": 80.0}


def image_of(channels=1, scale=1.0, offset=0.0):
    voxels = np.random.default_rng(0).normal(size=(channels, 9, 8, 7)) * scale + offset
    affine = torch.diag(torch.tensor([1.0, 1.5, 2.0, 1.0], dtype=torch.float64))
    return MetaTensor(torch.tensor(voxels, dtype=torch.float32), affine=affine, meta={"filename_or_obj": "x/scan.nii"})


@given(st.floats(1e-2, 1e5), st.floats(-1e4, 1e4))
def test_zscore_forgets_scale_and_offset(scale, offset):
    """Hippocampus scans differ a thousandfold in scale."""
    normalize = NormalizeChannelsd("image", [ZSCORE])
    plain = normalize({"image": image_of()})["image"]
    changed = normalize({"image": image_of(scale=scale, offset=offset)})["image"]
    assert abs(float(plain.mean())) < 1e-5
    assert float(plain.std(correction=0)) == pytest.approx(1, abs=1e-4)
    if abs(offset) < 100 * scale:  # else float32 has no room left for the differences
        torch.testing.assert_close(changed, plain, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("value", [0.0, 7.0, 3e5])
def test_an_image_of_one_value_is_refused(value):
    image = torch.full((1, 4, 4, 4), value)
    with pytest.raises(InputError, match="one value only"):
        NormalizeChannelsd("image", [ZSCORE])({"image": image})


def test_ct_is_clipped_and_scaled_as_nnunet_does():
    image = torch.tensor([[-2000.0, -100.0, 50.0, 130.0, 300.0, 3000.0]])
    normalized = NormalizeChannelsd("image", [CT])({"image": image})["image"]
    torch.testing.assert_close(normalized, torch.tensor([[-1.875, -1.875, 0.0, 1.0, 3.125, 3.125]]))


def test_each_channel_has_its_scheme_and_the_metadata_stay():
    image = image_of(channels=2, scale=100)
    before = image.clone()
    normalized = NormalizeChannelsd("image", [CT, ZSCORE])({"image": image, "image_path": "a string"})["image"]
    assert torch.equal(image, before), "the input is not changed in place"
    torch.testing.assert_close(normalized[0].as_tensor(), (before[0].as_tensor().clamp(-100, 300) - 50) / 80)
    assert float(normalized[1].mean()) == pytest.approx(0, abs=1e-5)
    assert isinstance(normalized, MetaTensor)
    assert torch.equal(normalized.affine, image.affine)
    assert normalized.meta["filename_or_obj"] == "x/scan.nii"
    assert normalized.applied_operations == image.applied_operations


def test_integers_come_out_as_float32():
    image = torch.arange(24, dtype=torch.int16).reshape(1, 2, 3, 4)
    assert NormalizeChannelsd("image", [ZSCORE])({"image": image})["image"].dtype == torch.float32


def test_another_channel_count_is_refused_by_file_name():
    with pytest.raises(InputError, match=r"^scan\.nii has 2 channels, the model needs 1"):
        NormalizeChannelsd("image", [ZSCORE])({"image": image_of(channels=2)})


@pytest.mark.parametrize(
    ("scheme", "message"),
    [
        ({"scheme": "z-score"}, "is unknown: its scheme must be bytes or ct or none or range"),
        ({}, "is unknown"),
        ("zscore", "is unknown"),
        ({"scheme": "zscore", "mean": 1}, r"zscore takes \[\], got \['mean'\]"),
        ({"scheme": "ct", "lower": 0}, r"ct takes \['lower', 'mean', 'std', 'upper'\]"),
        ({**CT, "std": 0.0}, "needs lower < upper and std > 0"),
        ({**CT, "lower": 300.0}, "needs lower < upper and std > 0"),
        ({**CT, "mean": "50"}, "takes numbers"),
    ],
)
def test_schemes_that_cannot_be_are_refused_at_once(scheme, message):
    with pytest.raises(ConfigError, match=message):
        NormalizeChannelsd("image", [scheme])


def test_it_survives_pickling():
    normalize = pickle.loads(pickle.dumps(NormalizeChannelsd("image", [CT])))  # noqa: S301
    assert normalize({"image": image_of()})["image"].shape == (1, 9, 8, 7)


def test_colours_keep_their_relation_and_grey_stays_grey():
    joint = NormalizeChannelsd("image", schemes=[{"scheme": "zscore_joint"}] * 3)
    grey = torch.rand(1, 9, 8).repeat(3, 1, 1)
    normalized = joint({"image": grey})["image"]
    assert torch.equal(normalized[0], normalized[2])
    colour = torch.rand(3, 9, 8)
    colour[2] = 0.5  # a channel without content is a colour, too
    normalized = joint({"image": colour})["image"]
    torch.testing.assert_close(normalized.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
    assert torch.equal(normalized.argmax(0), colour.argmax(0))
    with pytest.raises(InputError, match="one value only"):
        joint({"image": torch.full((3, 4, 4), 7.0)})


def test_zeros_round_a_brain_have_no_share_and_stay_zero():
    """The hole inside counts as brain, as in nnU-Net."""
    voxels = torch.zeros(2, 9, 9, 9)
    voxels[0, 2:7, 2:7, 2:7] = torch.from_numpy(np.random.default_rng(0).normal(50, 9, (5, 5, 5))).float()
    voxels[1] = voxels[0] * 3
    voxels[:, 4, 4, 4] = 0.0
    brain = (slice(2, 7),) * 3
    normalized = NormalizeChannelsd("image", [{"scheme": "zscore_nonzero"}] * 2)({"image": voxels})["image"]
    expected = (voxels[0][brain] - voxels[0][brain].mean()) / voxels[0][brain].std(correction=0)
    for channel in normalized:
        torch.testing.assert_close(channel[brain], expected, atol=1e-5, rtol=1e-5)
        channel[brain] = 0
        assert not channel.any()


def test_fixed_ranges():
    image = torch.tensor([[0.0, 51.0, 255.0], [-2.0, 0.0, 6.0], [7.0, 8.0, 9.0]])
    schemes = [{"scheme": "bytes"}, {"scheme": "range"}, {"scheme": "none"}]
    normalized = NormalizeChannelsd("image", schemes)({"image": image})["image"]
    torch.testing.assert_close(normalized, torch.tensor([[0.0, 0.2, 1.0], [0.0, 0.25, 1.0], [7.0, 8.0, 9.0]]))
    with pytest.raises(InputError, match="beyond 0 to 255"):
        NormalizeChannelsd("image", [{"scheme": "bytes"}])({"image": torch.tensor([[0.0, 256.0]])})
