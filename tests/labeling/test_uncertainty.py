import numpy as np
import pytest
import torch
from torch import nn

from unet_bundle.labeling.uncertainty import draw_dropout, predictive_entropy


def shares(*classes: float) -> np.ndarray:
    """Probabilities [classes, 4, 4, 4], the same in all voxels."""
    return np.ones((len(classes), 4, 4, 4), np.float32) * np.asarray(classes, np.float32)[:, None, None, None]


def test_from_sure_to_undecided():
    assert predictive_entropy([shares(0, 1, 0)]) == pytest.approx(0)
    assert predictive_entropy([shares(1 / 3, 1 / 3, 1 / 3)]) == pytest.approx(1, abs=1e-5)
    assert predictive_entropy([shares(0, 0.5, 0.5)]) == pytest.approx(np.log(2) / np.log(3), abs=1e-5)


def test_passes_that_contradict_each_other_are_undecided_though_each_is_sure():
    one, other = shares(0, 1, 0), shares(0, 0, 1)
    assert predictive_entropy([one, one]) == pytest.approx(0)
    assert predictive_entropy([one, other]) == pytest.approx(np.log(2) / np.log(3), abs=1e-5)


def test_sure_background_does_not_count():
    probabilities = shares(1, 0)
    probabilities[:, 0, 0, 0] = 0.5
    assert predictive_entropy([probabilities]) == pytest.approx(1, abs=1e-5)


def test_a_scan_without_anything_needs_a_look():
    assert predictive_entropy([shares(1, 0, 0)]) == 1


def test_regions_are_decided_one_by_one():
    assert predictive_entropy([shares(1, 1)], exclusive=False) == pytest.approx(0)
    assert predictive_entropy([shares(1, 0.5)], exclusive=False) == pytest.approx(0.5, abs=1e-5)


def test_no_pass_is_an_error():
    with pytest.raises(ValueError, match="no pass"):
        predictive_entropy([])


def test_only_dropout_draws():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 8, 1), nn.BatchNorm3d(8), nn.Dropout3d(0.5), nn.Dropout(0.0)).train()
    image = torch.randn(1, 1, 4, 4, 4)
    mean = network[1].running_mean.clone()
    assert draw_dropout(network) == 1
    assert not torch.equal(network(image), network(image))
    assert torch.equal(network[1].running_mean, mean), "norms keep their statistics"
    network[2].p = 0.0
    assert draw_dropout(network) == 0
    assert torch.equal(network(image), network(image))
