"""Scores of an ensemble are the mean of its members'."""

import copy
import gc
import os
import weakref
from pathlib import Path

import pytest
import torch

from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.inferers import ScanInferer
from unet_bundle.inferers.ensemble import Ensemble
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


def test_foreign_weights_and_what_is_no_network_are_refused(folds: list[UNet], tmp_path: Path) -> None:
    scan = torch.zeros(1, 1, 8, 8, 8)
    with pytest.raises(CheckpointError, match=r"fold_1\.pt does not fit the network"):
        ScanInferer((8, 8, 8), ensemble=[str(tmp_path / "fold_1.pt")])(scan, UNet(3, 1, 5, channels=[4, 8]))
    with pytest.raises(ConfigError, match="needs a network of its own"):
        ScanInferer((8, 8, 8), ensemble=[str(tmp_path / "fold_1.pt")])(scan, lambda window: window)
    assert folds


def test_missing_files_are_refused_where_the_inferer_is_made(folds: list[UNet], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^fold_7\.pt, a file of ensemble, is missing"):
        ScanInferer((8, 8, 8), ensemble=["fold_0.pt", "fold_7.pt"], ensemble_folder=str(tmp_path))
    assert folds


@pytest.mark.parametrize("wrong", ["fold_0.pt", "", 3, [0]])
def test_what_is_no_list_of_files_is_refused(wrong: object, folds: list[UNet], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^ensemble must be a list of files of weights, not "):
        ScanInferer((8, 8, 8), ensemble=wrong, ensemble_folder=str(tmp_path))  # type: ignore[arg-type]
    assert folds


def first(members: list[UNet]) -> torch.Tensor:
    return next(members[0].parameters()).detach()


def test_members_are_made_again_when_a_file_is_another(folds: list[UNet], tmp_path: Path) -> None:
    ensemble = Ensemble(["fold_0.pt"], tmp_path)
    before = ensemble.of(folds[2])
    assert ensemble.of(folds[2])[0] is before[0]
    file = tmp_path / "fold_0.pt"
    times = file.stat()
    (tmp_path / "fold_1.pt").replace(file)  # as long and, to a clock of whole seconds, as old
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert torch.equal(first(ensemble.of(folds[2])), first(folds[1:]))
    file.unlink()
    with pytest.raises(CheckpointError, match=r"fold_0\.pt is missing"):
        ensemble.of(folds[2])


def test_members_are_made_again_for_another_network_or_device(folds: list[UNet], tmp_path: Path) -> None:
    ensemble, network = Ensemble(["fold_0.pt"], tmp_path), UNet(3, 1, 3, channels=[4, 8])
    before = ensemble.of(network)
    other = UNet(3, 1, 3, channels=[4, 8], dropout=0.5)
    assert ensemble.of(other)[0] is not before[0]
    assert ensemble.of(network)[0] is before[0]
    assert first(ensemble.of(network.double())).dtype == torch.float64
    assert first(ensemble.of(network.to("meta"))).device.type == "meta"
    assert folds


def test_members_are_made_once_for_a_network_however_often_a_host_builds_the_inferer(
    folds: list[UNet], tmp_path: Path
) -> None:
    first_time = Ensemble(["fold_0.pt", "fold_1.pt"], tmp_path).of(folds[2])
    second_time = Ensemble(["fold_0.pt", "fold_1.pt"], tmp_path).of(folds[2])
    assert all(one is other for one, other in zip(first_time, second_time, strict=True))
    assert torch.equal(first(Ensemble(["fold_1.pt"], tmp_path).of(folds[2])), first(folds[1:])), "others are others"


def test_members_go_with_their_network(folds: list[UNet], tmp_path: Path) -> None:
    network = UNet(3, 1, 3, channels=[4, 8])
    member = weakref.ref(Ensemble(["fold_0.pt"], tmp_path).of(network)[0])
    assert member() is not None
    del network
    gc.collect()
    assert member() is None
    assert folds


def test_a_network_is_taken_out_of_its_wrapper(folds: list[UNet], tmp_path: Path) -> None:
    members = Ensemble(["fold_0.pt"], tmp_path).of(torch.nn.DataParallel(folds[2]))
    assert isinstance(members[0], UNet)
    assert torch.equal(first(members), first(folds))


def test_a_copy_of_an_inferer_gives_the_same_labels(folds: list[UNet], tmp_path: Path) -> None:
    scan = torch.randn(1, 1, 20, 24, 16)
    inferer = ScanInferer((16, 16, 16), ensemble=["fold_0.pt", "fold_1.pt"], ensemble_folder=str(tmp_path))
    before = copy.deepcopy(inferer)
    labels = inferer(scan, folds[2])
    for other in (before, copy.deepcopy(inferer)):
        assert torch.equal(other(scan, folds[2]), labels)


def test_a_copy_of_an_ensemble_is_one(folds: list[UNet], tmp_path: Path) -> None:
    ensemble = Ensemble(["fold_0.pt"], tmp_path)
    members = ensemble.of(folds[2])
    assert torch.equal(first(copy.deepcopy(ensemble).of(folds[2])), first(members))
