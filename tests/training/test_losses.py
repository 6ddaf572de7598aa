import pytest
import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss

from unet_bundle.training import WeightedDeepSupervisionLoss, WeightedDiceCELoss


@pytest.fixture(params=[(2, (24, 20)), (4, (12, 10, 8))], ids=["2D, 2 classes", "3D, 4 classes"])
def batch(request):
    """Logits of three heads and labels, as a network with deep supervision gives them."""
    classes, size = request.param
    draw = torch.Generator().manual_seed(0)
    label = torch.randint(0, classes, (3, 1, *size), generator=draw).float()
    sizes = [[edge // step for edge in size] for step in (1, 2, 4)]
    heads = [torch.randn(3, classes, *edges, generator=draw, requires_grad=True) for edges in sizes]
    return heads, label


def gradients(loss, heads):
    return torch.autograd.grad(loss, heads, retain_graph=True)


@pytest.mark.parametrize("options", [{}, {"include_background": True}, {"batch": False}])
def test_weights_of_one_give_the_loss_of_monai(batch, options):
    heads, label = batch
    usual = {"include_background": False, "batch": True, **options}
    theirs = DeepSupervisionLoss(DiceCELoss(to_onehot_y=True, softmax=True, **usual))(heads, label)
    ours = WeightedDeepSupervisionLoss(WeightedDiceCELoss(**usual))
    for loss in (ours(heads, label), ours(heads, label, torch.ones_like(label))):
        assert loss.item() == pytest.approx(theirs.item(), abs=1e-6)
        for one, other in zip(gradients(loss, heads), gradients(theirs, heads), strict=True):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)
    single = DiceCELoss(to_onehot_y=True, softmax=True, **usual)(heads[0], label)
    assert ours(heads[0], label, torch.full_like(label, 3.0)).item() == pytest.approx(single.item(), abs=1e-6)


def test_the_cross_entropy_is_the_weighted_mean(batch):
    heads, label = batch
    weights = torch.rand(label.shape) * 10 + 0.1
    rest = WeightedDiceCELoss()(heads[0], label) - torch.nn.functional.cross_entropy(heads[0], label[:, 0].long())
    shares = heads[0].log_softmax(dim=1).gather(1, label.long())
    expected = -(shares * weights).sum() / weights.sum()
    assert WeightedDiceCELoss()(heads[0], label, weights).item() == pytest.approx((rest + expected).item(), abs=1e-5)


def test_a_voxel_of_weight_0_is_as_if_it_were_not_there(batch):
    heads, label = batch
    weights = torch.ones_like(label)
    weights[:, :, ::2] = 0
    loss = WeightedDeepSupervisionLoss(WeightedDiceCELoss())
    other = label.clone()
    other[:, :, ::2] = 0
    first = loss(heads[0], label, weights)
    assert first.item() == loss(heads[0], other, weights).item(), "whatever its label is"
    assert not gradients(first, heads[:1])[0][:, :, ::2].any()
    kept = WeightedDiceCELoss()(heads[0][:, :, 1::2], label[:, :, 1::2])
    assert first.item() == pytest.approx(kept.item(), abs=1e-5)


def test_weights_of_0_everywhere_give_no_gradient_and_no_nan(batch):
    heads, label = batch
    loss = WeightedDeepSupervisionLoss(WeightedDiceCELoss())(heads, label, torch.zeros_like(label))
    assert torch.isfinite(loss)
    assert all(not gradient.any() for gradient in gradients(loss, heads))


def test_weights_shrink_to_a_head_as_the_labels_do(batch):
    """The weight at a coarse voxel is that of the very voxel whose label stands there."""
    heads, label = batch
    loss = WeightedDeepSupervisionLoss(WeightedDiceCELoss())
    weights = label + 1  # a function of the label, before and after
    small = loss._shrunk(label, heads[1].shape[2:])
    expected = loss(heads[0], label, weights) + 0.5 * loss(heads[1], small, small + 1)
    assert loss(heads[:2], label, weights).item() == pytest.approx(expected.item(), abs=1e-6)


def test_reduced_precision_is_computed_in_float32(batch):
    heads, label = batch
    loss = WeightedDeepSupervisionLoss(WeightedDiceCELoss())
    halves = [head.detach().bfloat16() for head in heads]
    assert loss(halves, label, torch.ones_like(label).half()).dtype == torch.float32
