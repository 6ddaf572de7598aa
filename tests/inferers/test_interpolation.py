"""Probabilities and entropy on the scan's grid are those of interpolating all scores, and lie in a file."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from monai.data import MetaTensor, decollate_batch
from monai.transforms import CropForegroundd
from tests.inferers.test_scan_inferer import PREPROCESSING, ROI, interpolated_scores, prepared, scan

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.inferers import ScanInferer
from unet_bundle.inferers.scratch import ScratchTensor


@pytest.fixture
def network() -> torch.nn.Module:
    """Six classes, some of them sure."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv3d(1, 8, 5, padding=2), torch.nn.ReLU(), torch.nn.Conv3d(8, 6, 5, padding=2)]
    network = torch.nn.Sequential(*layers).requires_grad_(False)
    network[2].weight *= 10
    return network


GRIDS = [
    ("LPS", (0.8, 0.7, 1.7), (50, 60, 40)),
    ("ASR", (0.8, 0.7, 3.0), (61, 30, 44)),
    ("SPL", (2.0, 2.5, 1.0), (40, 41, 42)),
    ("RAS", (1.2, 1.2, 1.2), (10, 41, 12)),
]


@pytest.mark.parametrize("memory", [None, "1MB"])
@pytest.mark.parametrize(("axes", "spacing", "shape"), GRIDS)
def test_probabilities_are_those_of_interpolating_everything(
    network: torch.nn.Module, axes: str, spacing: tuple[float, ...], shape: tuple[int, ...], memory: str | None
) -> None:
    image = scan(axes, spacing, shape)
    batch, transform = prepared(image, PREPROCESSING)
    found = ScanInferer(ROI, window_spacing="fixed", output="probabilities", memory=memory)(batch, network)
    assert found.shape == (1, 6, *shape)
    assert found.dtype == torch.float16
    np.testing.assert_array_equal(found[0].affine, image.affine)
    expected = interpolated_scores(batch, transform, network).softmax(0)
    torch.testing.assert_close(found[0].as_tensor().float(), expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("memory", [None, "1MB"])
def test_entropy_is_that_of_the_interpolated_scores(network: torch.nn.Module, memory: str | None) -> None:
    batch, transform = prepared(scan(*GRIDS[0]), PREPROCESSING)
    found = ScanInferer(ROI, window_spacing="fixed", output="entropy", memory=memory)(batch, network)
    scores = interpolated_scores(batch, transform, network)
    expected = torch.distributions.Categorical(logits=scores.movedim(0, -1)).entropy() / math.log(6)
    assert found.shape == (1, 1, *GRIDS[0][2])
    torch.testing.assert_close(found[0, 0].as_tensor().float(), expected, atol=1e-3, rtol=0)


def test_regions_have_a_probability_and_an_entropy_each(network: torch.nn.Module) -> None:
    batch, transform = prepared(scan(*GRIDS[0]), PREPROCESSING)
    scores = interpolated_scores(batch, transform, network)
    found = ScanInferer(
        ROI, window_spacing="fixed", output="probabilities", activation="sigmoid", probability_type="uint8"
    )(batch, network)
    assert found.dtype == torch.uint8
    torch.testing.assert_close(found[0].as_tensor() / 255.0, scores.sigmoid(), atol=0.5 / 255 + 1e-5, rtol=0)
    undecided = ScanInferer(ROI, window_spacing="fixed", output="entropy", activation="sigmoid")(batch, network)
    expected = torch.distributions.Bernoulli(logits=scores).entropy().mean(0) / math.log(2)
    torch.testing.assert_close(undecided[0, 0].as_tensor().float(), expected, atol=1e-3, rtol=0)


def test_entropy_of_certainty_and_of_none() -> None:
    image = torch.tensor([[-200.0, 0.0], [200.0, 0.0]])[None, None]
    found = ScanInferer((2, 2), output="entropy")(image, lambda window: torch.cat([window, -window], 1))
    assert found[0, 0].tolist() == [[0.0, 1.0], [0.0, 1.0]]


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_what_was_cropped_away_is_surely_background(activation: str) -> None:
    image = scan("RAS", (1.2, 1.2, 1.2), (40, 41, 42))
    crop = CropForegroundd("image", source_key="image", select_fn=lambda values: values > 1.0, allow_smaller=True)
    image[:, :10] = image[:, :, :7] = image[..., 30:] = -3.0
    batch, _ = prepared(image, [*PREPROCESSING, crop])
    assert batch.shape[2] < 40

    def network(window: torch.Tensor) -> torch.Tensor:
        return torch.cat([window * 0, window * 0 + 1], 1)

    found = ScanInferer(ROI, window_spacing="fixed", output="probabilities", activation=activation)(batch, network)[0]
    expected = torch.tensor([0.0, 1.0])
    expected = expected.softmax(0) if activation == "softmax" else expected.sigmoid()
    torch.testing.assert_close(found[:, 20, 20, 20].as_tensor().float(), expected, atol=1e-3, rtol=0)
    for away in (found[:, :9], found[:, :, :6], found[..., 31:]):
        assert (away[0] == (1 if activation == "softmax" else 0)).all()
        assert not away[1:].any()
    undecided = ScanInferer(ROI, window_spacing="fixed", output="entropy", activation=activation)(batch, network)[0, 0]
    assert not undecided[:9].any()
    assert undecided[20, 20, 20] > 0.5


def test_planes() -> None:
    image = torch.randn(2, 1, 30, 20)
    flat = torch.nn.Conv2d(1, 4, 3, padding=1).requires_grad_(False)
    found = ScanInferer((30, 20), output="probabilities")(image, flat)
    torch.testing.assert_close(found.float(), flat(image).softmax(1), atol=1e-3, rtol=0)


def test_many_classes_are_interpolated_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, _ = prepared(scan(*GRIDS[0]), PREPROCESSING)

    def network(window: torch.Tensor) -> torch.Tensor:
        return torch.cat([window, window**2, -window], 1)

    whole = ScanInferer(ROI, window_spacing="fixed", output="probabilities")(batch, network)
    monkeypatch.setattr("unet_bundle.inferers.interpolation.CHUNK", 1000)
    assert torch.equal(ScanInferer(ROI, window_spacing="fixed", output="probabilities")(batch, network), whole)


def test_one_scan_at_a_time_is_not_copied_into_memory() -> None:
    """Through the batch and out of it again, as MONAI's engines hand it on."""
    side, classes = 128, 40  # 168 MB of probabilities
    meta = {"original_affine": np.eye(4), "spatial_shape": np.array([side] * 3)}
    image = MetaTensor(torch.zeros(1, side // 2, side // 2, side // 2), affine=torch.diag(torch.tensor([2.0, 2, 2, 1])))
    image.meta.update(meta)
    before = psutil.Process().memory_info().rss
    found = ScanInferer((16, 64, 64), output="probabilities")(
        image[None], lambda window: window.expand(-1, classes, -1, -1, -1)
    )
    item = decollate_batch(found)[0]
    assert item.shape == (classes, side, side, side)
    assert psutil.Process().memory_info().rss - before < 100e6
    assert item[7].unique().tolist() == pytest.approx([1 / classes], abs=1e-4)
    assert item.meta["original_affine"].shape == (4, 4)


@pytest.mark.skipif(sys.platform == "win32", reason="files without a name are POSIX")
def test_nothing_can_stay_behind(tmp_path: Path) -> None:
    held = ScratchTensor((1000, 1000), torch.float16, str(tmp_path))
    held.tensor.fill_(0.5)
    held.release()
    assert (held.tensor == 0.5).all()
    assert list(tmp_path.iterdir()) == []  # so nothing can, however the process ends


def test_too_little_room_is_said_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no room for 1000000.0 GB .* scratch_dir"):
        ScratchTensor((10**15,), torch.uint8, str(tmp_path))


def test_scans_of_several_sizes_are_no_batch() -> None:
    images = MetaTensor(torch.zeros(2, 1, 8, 8))
    images.is_batch = True
    images.meta = {"original_affine": torch.eye(3)[None].repeat(2, 1, 1), "affine": torch.eye(3)[None].repeat(2, 1, 1)}
    images.meta["spatial_shape"] = torch.tensor([[8, 8], [9, 8]])
    with pytest.raises(InputError, match="the scans of a batch differ in size"):
        ScanInferer((8, 8))(images, lambda window: window)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"activation": "relu"}, "activation must be one of softmax, sigmoid, not 'relu'"),
        ({"probability_type": "float32"}, "probability_type must be one of float16, uint8, not 'float32'"),
        ({"scratch_dir": "nowhere"}, "scratch_dir 'nowhere' is no folder"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        ScanInferer(ROI, window_spacing="fixed", output="probabilities", **wrong)
