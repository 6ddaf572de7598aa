"""Elastic deformation as a transform: exact, the same for image and label, and at home in MONAI."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from scipy import ndimage

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import LoadImaged
from unet_bundle.transforms import RandElasticDeform, RandElasticDeformd
from unet_bundle.transforms.sampling import PatchDraw, coordinates, sample_patch
from unet_bundle.transforms.spatial import RandSpatiald, swap_labels
from unet_bundle.transforms.splines import ControlGrid


@pytest.fixture(params=[(40, 33), (24, 20, 18)], ids=["2D", "3D"])
def image(request: pytest.FixtureRequest) -> torch.Tensor:
    random = np.random.RandomState(0)
    return torch.from_numpy(
        ndimage.gaussian_filter(random.rand(2, *request.param), (0, *[1.5] * len(request.param)))
    ).float()


def by_scipy(image: torch.Tensor, displacement: ControlGrid, order: int) -> np.ndarray:
    shape = tuple(image.shape[1:])
    where = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij")) + displacement.field(shape)
    mode = "grid-constant" if order < 2 else "constant"
    return np.stack([ndimage.map_coordinates(c.numpy().astype(float), where, order=order, mode=mode) for c in image])


def test_zero_displacement_changes_nothing(image: torch.Tensor) -> None:
    assert torch.equal(RandElasticDeform(0.0, control_points=3)(image), image)


@pytest.mark.parametrize(("mode", "order"), [("bilinear", 1), ("spline", 3)])
def test_the_image_is_sampled_where_scipy_samples_it(image: torch.Tensor, mode: str, order: int) -> None:
    deform = RandElasticDeform(1.5, control_points=4, mode=mode).set_random_state(1)
    deformed = deform(image)
    assert deform.displacement is not None
    assert not torch.equal(deformed, image)
    assert np.abs(deformed.numpy() - by_scipy(image, deform.displacement, order)).max() < 1e-4


def test_coordinates_are_exact_to_a_ten_thousandth_of_a_voxel() -> None:
    """Against the interpolating cubic spline of SciPy, through rotation and zoom, in slabs."""
    size = (64, 48, 40)
    sampler = RandSpatiald(
        "image", size, elastic_prob=1, rotate_range=[30.0] * 3, rotate_prob=1, zoom_range=[0.7, 1.4], zoom_prob=1
    ).sampler
    drawn = sampler.draw(np.random.RandomState(0), (90, 90, 90), [])
    assert drawn.displacement is not None
    offsets = np.stack(np.meshgrid(*[np.arange(edge) - (edge - 1) / 2 for edge in size], indexing="ij"))
    values, steps = drawn.displacement.values, drawn.displacement.steps
    places = [o / s + (n - 1) / 2 for o, s, n in zip(offsets, steps, values.shape[1:], strict=True)]
    moved = offsets + np.stack([ndimage.map_coordinates(axis, places, order=3, mode="mirror") for axis in values])
    exact = np.moveaxis(np.tensordot(drawn.matrix, moved, axes=1), 0, -1) + drawn.center
    assert np.abs(coordinates(drawn, size).numpy() - exact).max() < 1e-4


@pytest.mark.parametrize("mode", ["nearest", "one-hot"])
def test_image_and_label_move_together(image: torch.Tensor, mode: str) -> None:
    """A label painted as intensity stays aligned, and no new value appears."""
    label = (image[:1] > image[:1].median()).to(torch.uint8) * 3
    deform = RandElasticDeformd(["image", "label"], 1.5, control_points=3, mode=["bilinear", mode])
    moved = deform.set_random_state(2)({"image": label.float(), "label": label})
    assert moved["label"].dtype == torch.uint8
    assert set(moved["label"].unique().tolist()) <= {0, 3}
    agree = (moved["image"] > 1.5) == (moved["label"] == 3)
    assert agree.float().mean() > (0.999 if mode == "one-hot" else 0.9)


def test_whole_numbers_are_rounded_not_cut_off(image: torch.Tensor) -> None:
    grey = (image * 1000).round()
    deform = RandElasticDeform(1.5, control_points=3)
    as_float = deform.set_random_state(0)(grey)
    as_integer = deform.set_random_state(0)(grey.to(torch.int16))
    assert as_integer.dtype == torch.int16
    assert torch.equal(as_integer.float(), as_float.round())


def test_the_number_of_threads_does_not_matter() -> None:
    image, threads = torch.rand(1, 70, 64, 64), torch.get_num_threads()
    deform = RandElasticDeform(2.0, control_points=4)
    try:
        patches = []
        for number in (1, 2, 3, 4):
            torch.set_num_threads(number)
            patches.append(deform.set_random_state(0)(image))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(patch, patches[0]) for patch in patches)


def test_the_same_draw_replays(image: torch.Tensor) -> None:
    deform = RandElasticDeform(1.5, control_points=3).set_random_state(3)
    first = deform(image)
    assert torch.equal(deform(image, randomize=False), first)
    assert not torch.equal(deform(image), first)
    deform.set_random_state(3)
    assert torch.equal(pickle.loads(pickle.dumps(deform))(image), first)  # noqa: S301  (what a loader's worker does)


def test_a_composition_seeds_it(image: torch.Tensor) -> None:
    chain = Compose([RandElasticDeformd("image", 1.5, control_points=3)])
    first, second = (chain.set_random_state(5)({"image": image})["image"] for _ in range(2))
    assert torch.equal(first, second)


def test_probability_zero_leaves_images_alone(image: torch.Tensor) -> None:
    assert RandElasticDeform(5.0, control_points=3, prob=0.0)(image) is image


def test_displacements_are_alike_in_millimetres() -> None:
    """Voxels of 1 x 1 x 4 mm: along the thick axis a quarter of the voxels, and control points equally far in mm."""
    volume = MetaTensor(torch.zeros(1, 60, 60, 15), affine=torch.diag(torch.tensor([1.0, 1.0, 4.0, 1.0])))
    deform = RandElasticDeform(3.0, control_spacing=20.0, units="mm").set_random_state(0)
    sizes = []
    for _ in range(200):
        deform.randomize(volume)
        assert deform.displacement is not None
        assert deform.displacement.steps == (20.0, 20.0, 5.0)
        sizes.append(deform.displacement.values.std(axis=(1, 2, 3)))
    across, _, along = np.mean(sizes, axis=0)
    assert along * 4 == pytest.approx(across, rel=0.1)


def test_metadata_stay(image: torch.Tensor) -> None:
    scan = MetaTensor(image, meta={"filename_or_obj": "scan.nii.gz"}, affine=torch.eye(4) * 2)
    deformed = RandElasticDeform(1.5, control_points=3)(scan)
    assert isinstance(deformed, MetaTensor)
    assert torch.equal(deformed.affine, scan.affine)
    assert deformed.meta["filename_or_obj"] == "scan.nii.gz"


def test_a_patch_knows_where_it_lies() -> None:
    """Its affine gives the same place in mm that the voxel was taken from."""
    ramp = torch.stack(torch.meshgrid(*[torch.arange(40.0)] * 3, indexing="ij"))
    affine = torch.tensor([[2.0, 0, 0, -10], [0, 3.0, 0, 5], [0, 0, 1.5, 7], [0, 0, 0, 1]], dtype=torch.float64)
    crop = RandSpatiald(
        "image", [12, 10, 8], spacing=[2.0, 3.0, 1.5], rotate_range=[20.0] * 3, rotate_prob=1.0,
        zoom_range=[0.8, 1.2], zoom_prob=1.0, shear_range=0.2, shear_prob=1.0, flip_axes=[0, 1, 2],
    )  # fmt: skip
    for seed in range(5):
        patch = crop.set_random_state(seed)({"image": MetaTensor(ramp, affine=affine)})["image"]
        voxel = torch.tensor([5.0, 4.0, 3.0, 1.0], dtype=torch.float64)
        in_scan = torch.cat([patch[:, 5, 4, 3].double(), torch.ones(1)])
        assert torch.allclose(patch.affine @ voxel, affine @ in_scan, atol=1e-3)


def test_mirrored_organs_swap_sides_and_back() -> None:
    label = torch.tensor([0, 1, 2, 3, 1], dtype=torch.uint8)
    swapped = swap_labels(label, [(1, 2)])
    assert swapped.tolist() == [0, 2, 1, 3, 2]
    assert torch.equal(swap_labels(swapped, [(1, 2)]), label)
    scan = torch.zeros(1, 8, 8, 8, dtype=torch.uint8)
    scan[:, 5:7], scan[:, 1:3] = 1, 2
    always = {"flip_prob": 1.0, "swapped_labels": [(1, 2)], "mode": "nearest"}
    across = RandSpatiald("label", [8, 8, 8], flip_axes=[0], **always)({"label": scan})["label"]
    assert torch.equal(across, swap_labels(scan.flip(1), [(1, 2)]))
    assert torch.equal(
        RandSpatiald("label", [8, 8, 8], flip_axes=[1], **always)({"label": scan})["label"], scan.flip(2)
    )


def test_a_real_scan_keeps_its_volume(shared_data: Callable[[str], Path]) -> None:
    dataset = shared_data("task04_hippocampus")
    case = {key: dataset / f"{key}sTr" / "hippocampus_001.nii.gz" for key in ("image", "label")}
    loaded = LoadImaged(["image", "label"], channels=[1, 1])(case)
    deform = RandElasticDeformd(
        ["image", "label"], 2.0, control_spacing=12.0, units="mm", mode=["bilinear", "nearest"]
    ).set_random_state(0)
    ratios = []
    for _ in range(20):
        moved = deform(loaded)
        ratios.append(float((moved["label"] > 0).sum() / (loaded["label"] > 0).sum()))
        values = moved["image"]
        assert values.min() >= min(float(loaded["image"].min()), 0)
        assert values.max() <= loaded["image"].max()
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.05)


def test_a_patch_needs_no_more_memory_than_a_slab(largest_tensor: Any) -> None:
    """What is computed at a time follows the slab, not the patch."""
    drawn = PatchDraw(np.array([63.5, 31.5, 31.5]), np.eye(3), ControlGrid(np.ones((3, 3, 3, 3)), (64.0,) * 3))
    size = (128, 64, 64)
    image = torch.rand(1, *size)
    with largest_tensor:
        sample_patch(image, drawn, size, "bilinear")
    assert largest_tensor.nbytes <= 128 * 64 * 64 * 3 * 4 / 2


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({}, "either control_spacing or control_points"),
        ({"control_points": 3, "control_spacing": 2.0}, "either control_spacing or control_points"),
        ({"control_points": 0}, "control_points"),
        ({"control_spacing": -1.0}, "control_spacing"),
        ({"control_spacing": float("inf")}, "control_spacing"),
        ({"control_points": 3, "units": "inch"}, "units"),
        ({"control_points": 3, "on_folding": "ignore"}, "on_folding"),
        ({"control_points": 3, "mode": "cubic"}, "mode"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        RandElasticDeform(1.0, **wrong)  # type: ignore[arg-type]
    for sd in (-1.0, float("inf"), float("nan"), "2", [2.0, 2.0]):
        with pytest.raises(ConfigError, match="sd"):
            RandElasticDeform(sd, control_points=3)  # type: ignore[arg-type]


def test_a_number_for_each_axis_or_one() -> None:
    with pytest.raises(ConfigError, match="2 numbers for an image of 3 axes"):
        RandElasticDeform(1.0, control_points=[3, 3])(torch.zeros(1, 8, 8, 8))


@pytest.mark.parametrize("shape", [(20,), (1, 20), (1, 8, 8, 8, 8)])
def test_what_is_no_picture_or_volume_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=r"\[channels, \*spatial\]"):
        RandElasticDeform(1.0, control_points=3)(torch.zeros(shape))
