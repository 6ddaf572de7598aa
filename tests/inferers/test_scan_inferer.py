"""Labels on the scan's grid are those of interpolating all scores and taking the class with the highest."""

import logging
from collections.abc import Callable
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch
from monai.inferers import SlidingWindowInferer
from monai.transforms import Compose, CropForegroundd, Invertd, Orientationd
from scipy import ndimage

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.inferers import ScanInferer
from unet_bundle.transforms import ResampleToSpacingd, paint_regions
from unet_bundle.transforms.edge_aligned import resample_edge_aligned

ROI = (16, 24, 16)
PREPROCESSING = [
    Orientationd("image", axcodes="RAS", labels=None),
    ResampleToSpacingd("image", [1.2, 1.2, 1.2]),
]


@pytest.fixture
def network() -> torch.nn.Module:
    """Six classes."""
    torch.manual_seed(0)
    layers = [torch.nn.Conv3d(1, 8, 5, padding=2), torch.nn.ReLU(), torch.nn.Conv3d(8, 6, 5, padding=2)]
    return torch.nn.Sequential(*layers).requires_grad_(False)


def scan(axes: str, spacing: tuple[float, ...], shape: tuple[int, ...]) -> MetaTensor:
    """A smooth image whose axes point where `axes` says."""
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for own, (world, direction) in enumerate(nib.orientations.axcodes2ornt(axes)):
        affine[int(world), own] = direction * spacing[own]
    affine[:3, 3] = (-30.3, 12.1, 55.0)
    voxels = ndimage.gaussian_filter(np.random.RandomState(0).rand(*shape), 1.5).astype(np.float32)
    voxels = (voxels - voxels.mean()) / voxels.std()
    meta = {"original_affine": affine.copy(), "spatial_shape": np.array(shape), "filename_or_obj": "scan"}
    return MetaTensor(torch.from_numpy(voxels)[None], affine=torch.from_numpy(affine), meta=meta)


def prepared(image: MetaTensor, steps: list[Any]) -> tuple[MetaTensor, Compose]:
    transform = Compose(steps)
    batch = next(iter(DataLoader(Dataset([{"image": image}], transform), batch_size=1)))
    return batch["image"], transform


def interpolated_scores(batch: MetaTensor, transform: Compose, network: Callable[..., Any]) -> torch.Tensor:
    """What MONAI's own chain gives before the argmax: the scores of all classes on the scan's grid."""
    scores = SlidingWindowInferer(ROI, overlap=0.5, mode="gaussian")(batch, network)
    item = decollate_batch({"image": batch, "pred": scores})[0]
    inverted = Invertd("pred", transform=transform, orig_keys="image", nearest_interp=False, to_tensor=True)(item)
    return torch.Tensor(inverted["pred"].as_tensor())


def assert_same(labels: torch.Tensor, scores: torch.Tensor) -> None:
    different = labels.as_subclass(torch.Tensor)[0, 0] != scores.argmax(0)
    top = scores.topk(2, 0).values
    assert not (different & (top[0] - top[1] > 1e-4)).any()
    assert different.sum() <= 2


@pytest.mark.parametrize("memory", [None, "1MB"])
@pytest.mark.parametrize(
    ("axes", "spacing", "shape"),
    [
        ("LPS", (0.8, 0.7, 1.7), (50, 60, 40)),
        ("ASR", (0.8, 0.7, 3.0), (61, 30, 44)),
        ("SPL", (2.0, 2.5, 1.0), (40, 41, 42)),
        ("RAS", (1.2, 1.2, 1.2), (40, 41, 42)),
        ("RAS", (1.2, 1.2, 1.2), (10, 41, 12)),
    ],
)
def test_labels_are_those_of_interpolating_everything(
    network: torch.nn.Module, axes: str, spacing: tuple[float, ...], shape: tuple[int, ...], memory: str | None
) -> None:
    image = scan(axes, spacing, shape)
    batch, transform = prepared(image, PREPROCESSING)
    labels = ScanInferer(ROI, memory=memory, window_spacing="fixed")(batch, network)
    assert labels.shape == (1, 1, *shape)
    assert labels.dtype == torch.uint8
    np.testing.assert_array_equal(labels[0].affine, image.affine)
    assert_same(labels, interpolated_scores(batch, transform, network))


def test_a_class_that_wins_at_no_corner_may_win_in_between() -> None:
    """Between a voxel of class 0 and one of class 1, the second best of both has the most."""
    grid = torch.diag(torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64))
    meta = {"original_affine": np.eye(3), "spatial_shape": np.array([5, 3])}
    image = MetaTensor(torch.tensor([[0.0] * 3, [1.0] * 3, [1.0] * 3])[None, None], affine=grid, meta=meta)

    def network(window: torch.Tensor) -> torch.Tensor:
        return torch.cat([10 - 10 * window, 10 * window, torch.full_like(window, 9.0)], 1)

    labels = ScanInferer((3, 3))(image, network)
    assert labels[0, 0, :, 1].tolist() == [0, 2, 1, 1, 1]


def test_overlapping_regions_are_thresholded(network: torch.nn.Module) -> None:
    batch, transform = prepared(scan("LPS", (0.8, 0.7, 1.7), (50, 60, 40)), PREPROCESSING)
    masks = ScanInferer(ROI, output="regions", window_spacing="fixed")(batch, network)
    scores = interpolated_scores(batch, transform, network)
    different = (masks[0].as_subclass(torch.Tensor) > 0) != (scores > 0)
    assert masks.shape == (1, 6, 50, 60, 40)
    assert not (different & (scores.abs() > 1e-4)).any()


def test_regions_are_painted_as_if_their_channels_were(network: torch.nn.Module) -> None:
    names = dict(zip("abcdef", [[1, 2, 3, 4, 5, 6], [2, 3, 4], [3, 4], [4, 5], [5], [6]], strict=True))
    batch, _ = prepared(scan("LPI", (1.3, 0.7, 2.0), (24, 40, 15)), PREPROCESSING)
    arguments = {"roi_size": ROI, "overlap": 0.5, "mode": "gaussian"}
    channels = ScanInferer(**arguments, output="regions")(batch, network)[0]
    painted = ScanInferer(**arguments, regions=names)(batch, network)[0]
    assert painted.shape == (1, 24, 40, 15)
    assert torch.equal(painted[0].long().as_tensor(), paint_regions(channels.as_tensor() > 0, [1, 2, 3, 4, 5, 6]))
    assert len(painted.unique()) == 7


def test_what_was_cropped_away_is_background() -> None:
    image = scan("RAS", (1.2, 1.2, 1.2), (40, 41, 42))
    crop = CropForegroundd("image", source_key="image", select_fn=lambda values: values > 1.0, allow_smaller=True)
    image[:, :10] = image[:, :, :7] = image[..., 30:] = -3.0
    batch, _ = prepared(image, [*PREPROCESSING, crop])
    assert batch.shape[2] < 40
    labels = ScanInferer(ROI)(batch, lambda window: torch.cat([window * 0, window * 0 + 1], 1))
    assert labels.shape == (1, 1, 40, 41, 42)
    assert not labels[0, 0, :9].any()
    assert not labels[0, 0, :, :6].any()
    assert not labels[0, 0, :, :, 31:].any()
    assert labels[0, 0, 15:30, 15:30, 5:25].all()


def test_the_voxel_beside_the_crop_is_background_at_coarser_voxels_too() -> None:
    """Its centre lies less than a voxel of the network's grid beyond the last one's, but beyond its edge."""
    image = scan("RAS", (1.0, 1.0, 1.0), (40, 41, 42))
    crop = CropForegroundd("image", source_key="image", select_fn=lambda values: values > -9, allow_smaller=True)
    image[:, :10] = image[:, :, :7] = image[..., 30:] = -10.0
    batch, _ = prepared(image, [crop, ResampleToSpacingd("image", [1.9, 1.9, 1.9], "cubic", align="edges")])
    labels = ScanInferer(ROI)(batch, lambda window: torch.cat([window * 0, window * 0 + 1], 1))
    expected = torch.zeros(40, 41, 42)
    expected[10:, 7:, :30] = 1
    assert torch.equal(labels[0, 0].as_tensor().float(), expected)


@pytest.mark.parametrize(("axes", "thick"), [("RAS", 2), ("SPL", 0)])
def test_thick_slices_have_the_scores_of_the_nearest_one(axes: str, thick: int) -> None:
    """The network's scores are its image: linear in the plane, and of the nearest slice across."""
    spacing = [1.0, 1.0, 1.0]
    spacing[thick] = 5.0
    image = scan(axes, tuple(spacing), (18, 19, 17))
    wanted = [1.4, 1.4, 1.4]
    wanted[thick] = 4.0
    batch, _ = prepared(image, [ResampleToSpacingd("image", wanted, "cubic", align="edges")])
    inferer = ScanInferer((64, 64, 64), separate_slices=wanted)
    labels = inferer(batch, lambda window: torch.cat([window * 0, window], 1))[0, 0].as_tensor()
    scores = resample_edge_aligned(batch[0].as_tensor(), image.shape[1:], "bilinear", thick)[0]
    assert not ((labels != (scores > 0)) & (scores.abs() > 1e-4)).any()
    linear = ScanInferer((64, 64, 64))(batch, lambda window: torch.cat([window * 0, window], 1))[0, 0].as_tensor()
    assert (labels != linear).any()


def test_slices_of_a_volume() -> None:
    network = torch.nn.Conv2d(1, 4, 3, padding=1).requires_grad_(False)
    batch, _ = prepared(scan("RAS", (1.2, 1.2, 1.2), (40, 41, 12)), [])
    labels = ScanInferer((16, 24), spatial_dim=2, sw_batch_size=3, window_spacing="fixed")(batch, network)
    stacked = [
        SlidingWindowInferer((16, 24), overlap=0.5, mode="gaussian")(batch[..., z].as_tensor(), network)
        for z in range(12)
    ]
    assert torch.equal(labels[0, 0].as_tensor(), torch.stack(stacked, -1).argmax(1)[0].to(torch.uint8))


def test_mirroring_is_the_mean_over_all_mirrorings(network: torch.nn.Module) -> None:
    image = torch.randn(1, 1, 16, 24, 16)
    flips = [(), (2,), (3,), (2, 3)]
    mean = sum(network(image.flip(axes)).flip(axes) for axes in flips) / 4
    labels = ScanInferer(ROI, mirror_axes=[0, 1], window_spacing="fixed")(image, network)
    assert torch.equal(labels[:, 0].long(), mean.argmax(1))


def test_windows_of_air_are_run_once(network: torch.nn.Module) -> None:
    image = torch.full((1, 1, 16, 24, 160), -1.0)
    image[..., 140:] = torch.randn(1, 1, 16, 24, 20)
    run = []

    def counted(windows: torch.Tensor) -> torch.Tensor:
        run.append(len(windows))
        return network(windows)

    once = ScanInferer(ROI, sw_batch_size=3)(image, counted)
    number = sum(run)
    run.clear()
    assert torch.equal(once, ScanInferer(ROI, sw_batch_size=3, remember_constant=False)(image, counted))
    assert (number, sum(run)) == (4, 19)


def test_less_memory_is_more_strips_and_the_same_labels(
    network: torch.nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    image = torch.randn(1, 1, 64, 96, 40)
    with caplog.at_level(logging.INFO):
        little = ScanInferer(ROI, memory="700KB")(image, network)
    assert "strips of the scan are done one after another" in caplog.text
    assert torch.equal(little, ScanInferer(ROI, memory="1GB")(image, network))


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"memory": "much"}, "memory is 'much'"),
        ({"memory": "0GB"}, "memory is '0GB'"),
        ({"output": "scores"}, "output must be one of labels, regions"),
        ({"precision": "half"}, "precision must be one of"),
        ({"overlap": "half"}, "overlap must be at least 0 and below 1, not 'half'"),
        ({"sw_batch_size": -1}, "sw_batch_size must be a whole number of 1 or more, not -1"),
        ({"sw_batch_size": "many"}, "sw_batch_size must be a whole number of 1 or more, not 'many'"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        ScanInferer(ROI, **wrong)


@pytest.mark.parametrize("axes", [(2,), (2, 3, 4)])
def test_scores_of_another_size_are_not_stretched_over_the_window(axes: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match="scores have another size than the windows it sees: choose one that pads"):
        ScanInferer(ROI)(torch.randn(1, 1, 20, 24, 16), lambda windows: windows.mean(axes, keepdim=True))


def test_a_grid_turned_against_the_scan_is_refused(network: torch.nn.Module) -> None:
    image = scan("RAS", (1.2, 1.2, 1.2), (40, 41, 42))
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]
    image.affine = torch.from_numpy(turn) @ image.affine
    with pytest.raises(InputError, match="turned against the scan's"):
        ScanInferer(ROI)(image[None], network)


def test_images_of_one_window_are_run_together(network: torch.nn.Module) -> None:
    batch = torch.randn(5, 1, 12, 24, 16, generator=torch.Generator().manual_seed(0))
    run = []

    def counted(windows: torch.Tensor) -> torch.Tensor:
        run.append(len(windows))
        return network(windows)

    inferer = ScanInferer(ROI, sw_batch_size=2)
    together = inferer(batch, counted)
    assert run == [2, 2, 1]
    assert torch.equal(together, torch.cat([inferer(image[None], network) for image in batch]))
    assert inferer.is_one_window(batch[0])
    assert not inferer.is_one_window(torch.zeros(1, 17, 24, 16))


def test_images_that_are_too_much_together_are_run_one_by_one(network: torch.nn.Module) -> None:
    batch = torch.randn(4, 1, 12, 24, 16, generator=torch.Generator().manual_seed(0))

    def short_of_memory(windows: torch.Tensor) -> torch.Tensor:
        if len(windows) > 1:
            raise torch.OutOfMemoryError
        return network(windows)

    inferer = ScanInferer(ROI, sw_batch_size=4)
    assert torch.equal(inferer(batch, short_of_memory), inferer(batch, network))
