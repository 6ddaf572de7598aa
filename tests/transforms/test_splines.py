"""Smooth displacements: exact splines, and no folding."""

import numpy as np
import pytest
from scipy import ndimage

from unet_bundle.errors import ConfigError
from unet_bundle.transforms.splines import ControlGrid, control_shape


def grid(seed: int, counts: tuple[int, ...], steps: tuple[float, ...], sd: float = 2.0) -> ControlGrid:
    return ControlGrid(np.random.RandomState(seed).normal(0, sd, (len(counts), *counts)), steps)


def by_scipy(values: np.ndarray, size: tuple[int, ...], steps: tuple[float, ...]) -> np.ndarray:
    """The interpolating cubic spline, mirrored at the ends of the control grid."""
    places = [
        (np.arange(edge) - (edge - 1) / 2) / step + (count - 1) / 2
        for edge, step, count in zip(size, steps, values.shape[1:], strict=True)
    ]
    where = np.stack(np.meshgrid(*places, indexing="ij"))
    return np.stack([ndimage.map_coordinates(axis, where, order=3, mode="mirror") for axis in values])


@pytest.mark.parametrize(
    ("size", "counts", "steps"),
    [
        ((31, 27), (3, 3), (15.0, 13.0)),
        ((40, 56), (4, 5), (13.7, 14.5)),
        ((24, 20, 16), (3, 4, 3), (11.5, 6.5, 7.5)),
        ((33, 17, 9), (2, 2, 2), (32.0, 20.0, 8.0)),
    ],
)
def test_the_field_is_the_mirrored_cubic_spline(
    size: tuple[int, ...], counts: tuple[int, ...], steps: tuple[float, ...]
) -> None:
    displacement = grid(0, counts, steps)
    assert np.abs(displacement.field(size) - by_scipy(displacement.values, size, steps)).max() < 1e-6


def test_the_field_goes_through_the_control_values() -> None:
    displacement = grid(1, (3, 4), (10.0, 8.0))
    assert np.allclose(displacement.field((21, 25))[:, ::10, ::8], displacement.values)


def test_an_axis_of_one_voxel_has_one_control_point() -> None:
    assert control_shape((64, 65, 1), (32.0, 32.0, 32.0)) == (3, 3, 1)
    field = grid(2, (3, 3, 1), (32.0, 32.0, 1.0)).field((64, 65, 1))
    assert field.shape == (3, 64, 65, 1)


def test_the_bound_holds() -> None:
    for seed in range(20):
        displacement = grid(seed, (3, 4, 5), (9.0, 7.0, 6.0))
        assert (displacement.bound() >= np.abs(displacement.field((19, 22, 25))).max(axis=(1, 2, 3)) - 1e-9).all()


def determinant(field: np.ndarray) -> np.ndarray:
    """Jacobian determinant of voxel + displacement by central differences, inside the patch."""
    dims = len(field)
    slopes = np.stack([np.stack(np.gradient(axis)) for axis in field])
    jacobian = np.moveaxis(slopes, (0, 1), (-2, -1)) + np.eye(dims)
    inner = (slice(1, -1),) * dims
    return np.linalg.det(jacobian[inner])


@pytest.mark.parametrize("dims", [2, 3])
def test_folds_are_taken_out_and_nothing_else_is_touched(dims: int) -> None:
    size, steps = (48, 40, 32)[:dims], (12.0,) * dims
    counts = control_shape(size, steps)
    folded = 0
    for seed in range(30):
        drawn = grid(seed, counts, steps, sd=3.0 if seed % 2 else 0.3)
        unfolded = drawn.unfolded(size)
        assert determinant(unfolded.field(size)).min() > 0
        if determinant(drawn.field(size)).min() <= 0:
            folded += 1
            assert unfolded is not drawn
        if seed % 2 == 0:
            assert unfolded is drawn
    assert folded > 5


def test_a_fold_can_be_refused() -> None:
    with pytest.raises(ConfigError, match="folds space"):
        grid(0, (5, 5), (8.0, 8.0), sd=20.0).unfolded((33, 33), refuse=True)


@pytest.mark.parametrize(
    ("size", "steps"), [((30, 30), (3.0, 3.0)), ((17, 13, 6), (9.0, 9.0, 1.8))], ids=["close points", "thick slices"]
)
def test_nothing_folds_between_voxels_either(size: tuple[int, ...], steps: tuple[float, ...]) -> None:
    """Where control points are few voxels apart, the voxels alone would miss a fold."""
    finer = 5
    fine_size = tuple((edge - 1) * finer + 1 for edge in size)
    for seed in range(8):
        drawn = grid(seed, control_shape(size, steps), steps)
        drawn.values[:] *= (np.asarray(steps) / 4).reshape(-1, *[1] * len(size))
        unfolded = drawn.unfolded(size)
        fine = ControlGrid(unfolded.values * finer, tuple(step * finer for step in steps))
        assert determinant(fine.field(fine_size)).min() > 0


def test_looking_at_folds_in_parts_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = grid(0, (5, 4, 3), (8.0,) * 3, sd=6.0)
    whole = drawn.unfolded((33, 25, 17))
    assert whole is not drawn
    monkeypatch.setattr("unet_bundle.transforms.splines.LATTICE_SLAB", 1000)
    assert np.array_equal(drawn.unfolded((33, 25, 17)).values, whole.values)
