"""Scores of an ensemble are the mean of its members'."""

from pathlib import Path

import pytest
import torch

from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.inferers import ScanInferer
from unet_bundle.inferers.network_call import NetworkCall
from unet_bundle.networks import UNet


@pytest.fixture
def folds(tmp_path: Path) -> list[UNet]:
    """Three networks, their weights in the folder."""
    networks = []
    for number in range(3):
        torch.manual_seed(number)
        networks.append(UNet(3, 1, 3, channels=[4, 8]).eval().requires_grad_(False))
        torch.save(networks[-1].state_dict(), tmp_path / f"fold_{number}.pt")
    return networks


def test_labels_are_those_of_the_mean_score(folds: list[UNet], tmp_path: Path) -> None:
    scan = torch.randn(1, 1, 20, 24, 16)
    files = [f"fold_{number}.pt" for number in range(3)]
    found = ScanInferer((16, 16, 16), ensemble=files, ensemble_folder=str(tmp_path))(
        scan, UNet(3, 1, 3, channels=[4, 8])
    )

    def mean(windows: torch.Tensor) -> torch.Tensor:
        return torch.stack([network(windows) for network in folds]).mean(0)

    assert (found != ScanInferer((16, 16, 16))(scan, mean)).sum() <= 2


def test_mirrored_members_are_averaged_over_both(folds: list[UNet]) -> None:
    windows = torch.randn(2, 1, 8, 8, 8)
    found = NetworkCall(folds, torch.device("cpu"), mirror_axes=[0])(windows)
    each = [network(windows) for network in folds] + [network(windows.flip(2)).flip(2) for network in folds]
    torch.testing.assert_close(found, torch.stack(each).mean(0))


def test_missing_and_foreign_weights_are_refused(folds: list[UNet], tmp_path: Path) -> None:
    scan = torch.zeros(1, 1, 8, 8, 8)
    with pytest.raises(CheckpointError, match=r"fold_7\.pt is missing"):
        ScanInferer((8, 8, 8), ensemble=["fold_7.pt"], ensemble_folder=str(tmp_path))(scan, folds[0])
    with pytest.raises(CheckpointError, match=r"fold_1\.pt does not fit the network"):
        ScanInferer((8, 8, 8), ensemble=[str(tmp_path / "fold_1.pt")])(scan, UNet(3, 1, 5, channels=[4, 8]))
    with pytest.raises(ConfigError, match="needs a network of its own"):
        ScanInferer((8, 8, 8), ensemble=[str(tmp_path / "fold_1.pt")])(scan, lambda window: window)
