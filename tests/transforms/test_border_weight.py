import time

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.spatial.distance import cdist

from unet_bundle.errors import ConfigError
from unet_bundle.io import LoadImaged
from unet_bundle.transforms import BorderWeightd
from unet_bundle.transforms.border_weight import border_weight


def by_definition(objects, w0, sigma, spacing):
    """The paper's equation 2, each background voxel against each voxel of each object."""
    where = np.argwhere(objects == 0) * spacing
    present = [number for number in np.unique(objects) if number]
    to_each = [cdist(where, np.argwhere(objects == number) * spacing).min(axis=1) for number in present]
    weights = np.ones(objects.shape)
    if len(present) > 1:
        nearest, second = np.sort(to_each, axis=0)[:2]
        weights[objects == 0] += w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return weights


def crowd(seed, shape, count, radius):
    """Discs or balls at random places, which touch, and one that consists of two pieces."""
    draw = np.random.default_rng(seed)
    objects = np.zeros(shape, np.int32)
    grid = np.indices(shape)
    for number in [*range(1, count + 1), 1]:
        middle = draw.uniform(0, shape).reshape(-1, *[1] * len(shape))
        size = draw.uniform(radius / 2, radius)
        objects[(((grid - middle) ** 2).sum(axis=0) <= size**2) & (objects == 0)] = number
    return objects


@pytest.mark.parametrize(
    ("shape", "count", "radius", "spacing", "w0", "sigma"),
    [
        ((120, 90), 12, 9, (1.0, 1.0), 10.0, 5.0),
        ((70, 100), 5, 6, (0.5, 2.0), 10.0, 3.0),
        ((64, 64), 30, 5, (1.0, 1.0), 25.0, 1.5),
        ((20, 24, 18), 7, 5, (1.0, 0.8, 2.5), 10.0, 2.0),
        ((60, 40), 1, 8, (1.0, 1.0), 10.0, 5.0),
        ((60, 40), 2, 3, (1.0, 1.0), 0.0, 5.0),
    ],
)
def test_the_weights_are_the_formula_of_the_paper(shape, count, radius, spacing, w0, sigma):
    for seed in range(3):
        objects = crowd(seed, shape, count, radius)
        weights = border_weight(objects, w0=w0, sigma=sigma, spacing=spacing)
        assert weights.dtype == np.float32
        np.testing.assert_allclose(weights, by_definition(objects, w0, sigma, np.asarray(spacing)), rtol=0, atol=1e-5)


def test_real_nuclei_have_the_formulas_weights_too(shared_data):
    folder = shared_data("dsb2018_nuclei") / "labels"
    label = LoadImaged("label")({"label": str(min(folder.iterdir()))})["label"]
    part = label[:, :160, :160]
    weights = BorderWeightd("label")({"label": part})["label_weight"]
    objects = part[0].numpy().astype(int)
    assert len(np.unique(objects)) > 3
    np.testing.assert_allclose(weights[0].numpy(), by_definition(objects, 10.0, 5.0, np.ones(2)), rtol=0, atol=1e-5)


def test_a_crowded_picture_takes_a_part_of_a_second():
    draw = np.random.default_rng(0)
    objects = np.zeros((1024, 1024), np.int32)
    y, x = np.indices((41, 41)) - 20
    for number, (row, column) in enumerate(draw.integers(20, 1003, (300, 2)), start=1):
        disc = objects[row - 20 : row + 21, column - 20 : column + 21]
        disc[(y**2 + x**2 <= draw.uniform(9, 20) ** 2) & (disc == 0)] = number
    start = time.process_time()
    border_weight(objects)
    assert time.process_time() - start < 0.5


def test_lengths_are_those_of_the_affine():
    objects = torch.zeros(1, 40, 12, dtype=torch.int32)
    objects[0, :5], objects[0, 9:12] = 1, 2
    affine = torch.diag(torch.tensor([0.25, 0.5, 1.0], dtype=torch.float64))
    there = BorderWeightd("label", sigma=0.7)({"label": MetaTensor(objects, affine=affine)})["label_weight"]
    # From the middle voxel of the gap: two or three steps of 0.25 mm to either side.
    assert there[0, 6, 3] == pytest.approx(1 + 10 * np.exp(-((0.5 + 0.75) ** 2) / (2 * 0.7**2)), abs=1e-5)
    torch.testing.assert_close(there.affine, affine)
    assert there.shape == objects.shape


def test_balanced_weights_give_background_and_objects_the_same_share():
    objects = crowd(0, (80, 80), 6, 7)
    weights = border_weight(objects, w0=0.0, balance=True)
    assert weights[objects == 0].sum() == pytest.approx(weights[objects > 0].sum(), rel=1e-4)
    assert weights.mean() == pytest.approx(1.0, rel=1e-5)
    for uniform in (np.zeros((5, 5), np.int32), np.ones((5, 5), np.int32)):
        assert (border_weight(uniform, balance=True) == 1).all()


@pytest.mark.parametrize("wrong", [{"w0": -1.0}, {"sigma": 0.0}, {"sigma": float("nan")}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="w0 must be at least 0, sigma above 0"):
        BorderWeightd("label", **wrong)
