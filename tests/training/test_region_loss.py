"""The loss of regions: a binary one for each, of a label map."""

import pytest
import torch
from monai.losses import DeepSupervisionLoss, DiceLoss
from torch.nn import functional

from unet_bundle.training import RegionDiceBCELoss

REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "rim": [3]}


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(2, 3, 8, 10, 6, generator=torch.Generator().manual_seed(1)).requires_grad_()


@pytest.fixture
def label() -> torch.Tensor:
    return torch.randint(0, 4, (2, 1, 8, 10, 6), generator=torch.Generator().manual_seed(2)).float()


def test_it_is_dice_and_binary_cross_entropy_of_the_regions(logits, label):
    target = torch.cat([label >= 1, label >= 2, label == 3], dim=1).float()
    expected = DiceLoss(sigmoid=True, batch=True)(logits, target) + functional.binary_cross_entropy_with_logits(
        logits, target
    )
    for loss in (RegionDiceBCELoss(REGIONS, batch=True), RegionDiceBCELoss(REGIONS, ignore_index=4, batch=True)):
        assert loss(logits, label).item() == pytest.approx(expected.item(), rel=1e-6)


def test_regions_are_made_after_labels_were_made_smaller(logits, label):
    half = logits[..., ::2, ::2, ::2]
    small = functional.interpolate(label, size=half.shape[2:], mode="nearest-exact")
    loss = RegionDiceBCELoss(REGIONS)
    together = DeepSupervisionLoss(loss)([logits, half], label)
    assert together.item() == pytest.approx((loss(logits, label) + 0.5 * loss(half, small)).item(), rel=1e-6)


def test_voxels_that_nobody_labelled_have_no_gradient(logits, label):
    label[:, :, :5] = 4
    loss = RegionDiceBCELoss(REGIONS, ignore_index=4, batch=True)
    loss(logits, label).backward()
    assert (logits.grad[:, :, :5] == 0).all()
    assert (logits.grad[:, :, 5:] != 0).all()
    part = RegionDiceBCELoss(REGIONS, batch=True)(logits[:, :, 5:], label[:, :, 5:])
    assert loss(logits, label).item() == pytest.approx(part.item(), rel=1e-5)


def test_a_network_that_is_right_about_all_regions_has_nothing_to_learn(label):
    sure = torch.cat([label >= 1, label >= 2, label == 3], dim=1).float() * 40 - 20
    assert RegionDiceBCELoss(REGIONS, batch=True)(sure, label) < 1e-4
