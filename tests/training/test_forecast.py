import torch
from monai.losses import DeepSupervisionLoss, DiceCELoss

from unet_bundle.training.forecast import seconds_per_step


def test_timing_a_step_leaves_the_random_stream_as_it_was(make_network):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    loss = DeepSupervisionLoss(DiceCELoss(to_onehot_y=True, softmax=True))
    seconds = seconds_per_step(make_network, loss, [1, 1, 16, 16, 8], 4, torch.device("cpu"))

    assert 0 < seconds < 60
    assert torch.equal(torch.rand(4), expected)
