"""Every metric against another implementation: distance transforms of the whole volume, and MONAI's functions."""

import math
import time
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from unet_bundle.evaluation.metrics import ClassScores, case_scores, dice_scores

CLASSES = 4


def random_pair(seed: int) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
    """Two label maps of smooth structures that partly agree, on voxels of up to 1 to 8."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(side) for side in rng.integers(9, 33, 3))
    spacing = tuple(float(edge) for edge in np.round(rng.uniform([0.4, 0.8, 2.5], [0.8, 2.0, 6.0]), 3))
    base = rng.normal(size=(CLASSES, *shape))

    def label_map(fields: np.ndarray) -> np.ndarray:
        smooth = np.stack([ndimage.gaussian_filter(field, [3.0 / edge for edge in spacing]) for field in fields])
        smooth /= smooth.std(axis=(1, 2, 3), keepdims=True)
        smooth[0] += 0.7  # the background is larger, so that structures are apart from one another
        return smooth.argmax(axis=0).astype(np.int32)

    return label_map(base + 0.6 * rng.normal(size=base.shape)), label_map(base), spacing


def surface(mask: np.ndarray) -> np.ndarray:
    """Voxels of a mask with one of six neighbours outside it, by shifting the mask."""
    padded = np.pad(mask, 1)
    inside = np.ones_like(padded)
    for axis in range(mask.ndim):
        for step in (1, -1):
            inside &= np.roll(padded, step, axis)
    return mask & ~inside[(slice(1, -1),) * mask.ndim]


def reference(prediction: np.ndarray, label: np.ndarray, spacing: Any, tolerance: float) -> list[float]:
    """Dice, HD95, surface Dice and volume difference of one class, by distance transforms."""
    edges = surface(prediction), surface(label)
    there, back = (
        ndimage.distance_transform_edt(~edge, sampling=spacing)[other]
        for edge, other in zip(edges[::-1], edges, strict=True)
    )
    near = (there <= tolerance).sum() + (back <= tolerance).sum()
    overlap = 2.0 * (prediction & label).sum() / (prediction.sum() + label.sum())
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    difference = (int(prediction.sum()) - int(label.sum())) * math.prod(spacing) / (1000 if label.ndim > 2 else 1)
    return [overlap, hd95, near / (there.size + back.size), difference]


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_those_of_distance_transforms(seed: int) -> None:
    prediction, label, spacing = random_pair(seed)
    assert max(spacing) > 1.2 * min(spacing)
    rng = np.random.default_rng(seed)
    tolerances = rng.uniform(0.2, 4.0, CLASSES - 1).tolist()
    # Turned and moved as an oblique scan is: distances stay what they were.
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    affine = nib.affines.from_matvec(turn @ np.diag(spacing), rng.uniform(-200, 200, 3))

    scores = case_scores(prediction, label, CLASSES, affine, tolerances)
    compared = 0
    for value, row, tolerance in zip(range(1, CLASSES), scores, tolerances, strict=True):
        found, true = prediction == value, label == value
        if found.any() and true.any():
            assert row[:4] == pytest.approx(reference(found, true, spacing, tolerance), abs=1e-4)
            compared += 1
    assert compared
    assert dice_scores(prediction, label, CLASSES) == [row.dice for row in scores]


@pytest.mark.parametrize("seed", range(5))
def test_scores_are_those_of_monai(seed: int) -> None:
    prediction, label, spacing = random_pair(seed)
    scores = case_scores(prediction, label, CLASSES, np.diag([*spacing, 1.0]), [1.5] * 3)
    one_hot = [
        torch.nn.functional.one_hot(torch.from_numpy(array).long(), CLASSES).movedim(-1, 0)[None]
        for array in (prediction, label)
    ]
    hd95 = compute_hausdorff_distance(*one_hot, percentile=95, spacing=spacing)
    surface_dice = compute_surface_dice(*one_hot, class_thresholds=[1.5] * 3, spacing=spacing)
    assert [row.hd95 for row in scores] == pytest.approx(hd95[0].tolist(), abs=1e-4)
    assert [row.surface_dice for row in scores] == pytest.approx(surface_dice[0].tolist(), abs=1e-4)


def test_planes_are_scored_in_their_two_axes() -> None:
    volumes = random_pair(1)
    prediction, label = (volume[:, :, 5] for volume in volumes[:2])
    for value, row in enumerate(case_scores(prediction, label, CLASSES, np.diag([0.5, 2.0, 1.0, 1.0])), start=1):
        if row.one_sided == 0:
            expected = reference(prediction == value, label == value, (0.5, 2.0), 1.0)
            assert row[:4] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("axis", range(3))
def test_a_volume_of_one_slice_has_the_distances_of_its_plane(axis: int) -> None:
    """Across a single voxel everything would be surface, and every distance too small."""
    prediction, label = (volume[:, :, 5] for volume in random_pair(1)[:2])
    spacing = [0.5, 2.0]
    planes = case_scores(prediction, label, CLASSES, np.diag([*spacing, 1.0, 1.0]))
    thin = [np.expand_dims(plane, axis) for plane in (prediction, label)]
    spacing.insert(axis, 5.0)
    volumes = case_scores(*thin, CLASSES, np.diag([*spacing, 1.0]))
    assert [row[:3] for row in volumes] == [pytest.approx(row[:3]) for row in planes]


def test_a_single_voxel_is_its_own_surface() -> None:
    voxel = np.ones((1, 1, 1), np.int32)
    assert case_scores(voxel, voxel, 2, np.eye(4))[0][:3] == (1.0, 0.0, 1.0)


def test_a_shift_of_a_cube_is_that_many_millimetres() -> None:
    label = np.zeros((30, 30, 30), np.int32)
    label[10:20, 10:20, 10:20] = 1
    affine = np.diag([1.0, 1.0, 3.0, 1.0])
    (row,) = case_scores(np.roll(label, 1, axis=2), label, 2, affine)
    assert row.dice == pytest.approx(0.9)
    assert row.hd95 == pytest.approx(3.0)
    assert row.volume_difference == 0.0
    (row,) = case_scores(np.pad(label[1:], ((0, 1), (0, 0), (0, 0))) | label, label, 2, affine)
    assert row.volume_difference == pytest.approx(0.3)  # 100 voxels of 3 mm³ too much


def test_a_step_of_the_tolerance_agrees_although_files_store_single_precision() -> None:
    label = np.zeros((30, 30, 30), np.int32)
    label[10:20, 10:20, 10:20] = 1
    affine = np.diag([1.0000001, 1.0, 1.0, 1.0])
    assert case_scores(np.roll(label, 1, axis=0), label, 2, affine)[0].surface_dice == 1.0
    assert case_scores(np.roll(label, 2, axis=0), label, 2, affine)[0].surface_dice < 0.9


def test_absent_classes_are_left_out_or_the_worst_case() -> None:
    empty, full = np.zeros((4, 5, 1), np.int32), np.zeros((4, 5, 1), np.int32)
    full[1:3, 1] = 1
    affine = nib.affines.from_matvec(np.diag([1.0, 1.0, 5.0]), [3.0, 4.0, 5.0])
    assert case_scores(empty, empty, 2, affine) == [ClassScores(None, None, None, None, None)]
    assert case_scores(full, empty, 2, affine) == [ClassScores(0.0, 5.0, 0.0, pytest.approx(0.01), 1.0)]
    assert case_scores(empty, full, 2, affine) == [ClassScores(0.0, 5.0, 0.0, pytest.approx(-0.01), 1.0)]
    assert case_scores(full, full, 2, affine) == [ClassScores(1.0, 0.0, 1.0, 0.0, 0.0)]


def test_twenty_organs_of_a_large_scan_are_scored_quickly() -> None:
    """A sixth of a large CT, in a sixth of the minute that one may take."""
    shape = (320, 320, 128)
    label = np.zeros(shape, np.int32)
    for value in range(1, 21):
        x, y, z = (value % 5) * 60 + 4, (value // 5) * 60 + 4, 10
        label[x : x + 50, y : y + 50, z : z + 100] = value
    started = time.process_time()
    scores = case_scores(np.roll(label, 2, axis=0), label, 21, np.diag([0.8, 0.8, 1.0, 1.0]))
    assert time.process_time() - started < 10
    assert all(row.dice == pytest.approx(0.96) and row.hd95 == pytest.approx(1.6) for row in scores)
