"""The loss of sparse labels: MONAI's where all is labelled, and blind where nobody labelled."""

import pytest
import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss

from unet_bundle.training import IgnoreDiceCELoss

CLASSES, IGNORED = 4, 4
LOSS = {"include_background": False, "batch": True}


def logits_and_label(seed: int = 0, ignored: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random scores, and labels of which a share is ignored."""
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(0, CLASSES, (2, 1, 8, 10, 6), generator=random).float()
    label[torch.rand(label.shape, generator=random) < ignored] = IGNORED
    return torch.randn(2, CLASSES, 8, 10, 6, generator=random, requires_grad=True), label


@pytest.mark.parametrize("options", [LOSS, {}, {"batch": True}])
def test_where_all_is_labelled_it_is_monais_loss_to_the_last_bit(options):
    logits, label = logits_and_label()
    ours, theirs = IgnoreDiceCELoss(IGNORED, **options), DiceCELoss(to_onehot_y=True, softmax=True, **options)
    heads = [logits, logits[..., ::2, ::2, ::2] * 2]
    for wrap in (lambda loss: loss(logits, label), lambda loss: DeepSupervisionLoss(loss)(heads, label)):
        values = [wrap(loss) for loss in (ours, theirs)]
        assert values[0].item() == pytest.approx(values[1].item(), rel=1e-7)
        gradients = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in values]
        torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-9)


def test_voxels_that_nobody_labelled_have_no_gradient_and_no_say():
    logits, label = logits_and_label(ignored=0.7)
    loss = IgnoreDiceCELoss(IGNORED, **LOSS)
    value = loss(logits, label)
    (gradient,) = torch.autograd.grad(value, logits)
    ignored = (label == IGNORED).expand_as(gradient)
    assert (gradient[ignored] == 0).all()
    assert (gradient[~ignored] != 0).float().mean() > 0.99
    assert loss(torch.where(ignored, torch.randn_like(logits) * 50, logits), label) == value


def test_it_is_the_loss_of_the_labelled_part_alone():
    logits, label = logits_and_label()
    label[..., 4:] = IGNORED
    part = DiceCELoss(to_onehot_y=True, softmax=True, **LOSS)(logits[..., :4], label[..., :4])
    assert IgnoreDiceCELoss(IGNORED, **LOSS)(logits, label).item() == pytest.approx(part.item(), rel=1e-5)


def test_smaller_heads_are_blind_there_too():
    logits, label = logits_and_label()
    label[..., :4] = IGNORED
    half = logits[..., ::2, ::2, ::2].detach().requires_grad_()
    DeepSupervisionLoss(IgnoreDiceCELoss(IGNORED, **LOSS))([logits, half], label).backward()
    assert half.grad is not None
    assert (half.grad[..., :2] == 0).all()
    assert (half.grad[..., 2:] != 0).all()


def test_a_batch_that_nobody_labelled_teaches_nothing():
    logits, label = logits_and_label()
    value = IgnoreDiceCELoss(IGNORED, **LOSS)(logits, torch.full_like(label, IGNORED))
    value.backward()
    assert torch.isfinite(value)
    assert (logits.grad == 0).all()
