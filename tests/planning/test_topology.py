"""The rules of nnU-Net's planner for spacing, patch and stages."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_bundle.planning import topology

RECORDED = json.loads((Path(__file__).parent / "nnunet_plans.json").read_text(encoding="utf-8"))
"""What nnU-Net 2.8.1 planned for the same scans (scripts/compare_plans.py)."""


def test_hippocampus_has_the_stages_of_nnunet():
    stages = topology.plan_topology([1.0, 1.0, 1.0], [35, 50, 36])
    assert stages.patch_size == [40, 56, 40]
    assert stages.strides == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert stages.kernel_sizes == [[3, 3, 3]] * 4


def test_prostate_with_thick_slices_has_the_stages_of_nnunet():
    stages = topology.plan_topology([3.6, 0.625, 0.625], [20, 320, 256])
    assert stages.patch_size == [20, 320, 256]
    assert stages.strides == [[1, 1, 1], [1, 2, 2], [1, 2, 2], [2, 2, 2], [2, 2, 2], [1, 2, 2], [1, 2, 2]]
    assert stages.kernel_sizes == [[1, 3, 3], [1, 3, 3], *[[3, 3, 3]] * 5]


def test_spacing_is_the_median_per_axis():
    spacing, anisotropic = topology.target_spacing([[1, 1, 2], [1, 2, 3], [2, 3, 4]], [[100, 100, 100]] * 3)
    assert spacing == [1, 2, 3]
    assert anisotropic is None


def test_thick_slices_take_the_tenth_percentile():
    spacings = [[0.5, 0.5, float(thickness)] for thickness in range(1, 11)]
    spacing, anisotropic = topology.target_spacing(spacings, [[320, 320, 20]] * 10)
    assert anisotropic == 2
    assert spacing == [0.5, 0.5, pytest.approx(1.9)]


def test_thick_slices_never_become_finer_than_the_other_axes():
    spacings = [[1, 1, 0.4]] * 2 + [[1, 1, 5]] * 8
    assert topology.target_spacing(spacings, [[320, 320, 20]] * 10)[0] == [1, 1, 1]


def test_coarse_slices_that_are_many_keep_the_median():
    spacings = [[0.5, 0.5, 2.0]] * 9 + [[0.5, 0.5, 0.5]]
    assert topology.target_spacing(spacings, [[200, 200, 150]] * 10) == ([0.5, 0.5, 2.0], None)


def test_median_shape_is_that_of_the_resampled_scans():
    assert topology.median_shape([[1, 1, 2], [2, 1, 1]], [[100, 50, 30], [50, 60, 60]], [1, 1, 1]) == [100, 55, 60]


def test_the_first_patch_has_equal_edges_in_mm_and_stays_within_the_scans():
    assert topology.initial_patch([1.0, 1.0, 1.0], [482, 512, 512]) == [256, 256, 256]
    wide = topology.initial_patch([0.8, 0.8, 3.2], [5000, 5000, 5000])
    assert wide[0] == wide[1]
    assert wide[0] / wide[2] == pytest.approx(4, rel=0.02)
    assert topology.initial_patch([1.0, 1.0], [512, 3000]) == [512, 2048]


@given(
    st.integers(2, 3).flatmap(
        lambda dims: st.tuples(
            st.lists(st.floats(0.2, 10), min_size=dims, max_size=dims),
            st.lists(st.integers(1, 400), min_size=dims, max_size=dims),
        )
    )
)
def test_any_scan_gets_stages_that_fit(scan):
    spacing, patch_size = scan
    stages = topology.plan_topology(spacing, patch_size)
    total = topology.total_stride(stages.strides)
    assert len(stages.strides) == len(stages.kernel_sizes)
    assert stages.kernel_sizes[-1] == [3] * len(spacing)
    for edge, wanted, stride in zip(stages.patch_size, patch_size, total, strict=True):
        assert edge % stride == 0
        assert wanted <= edge < wanted + stride
        assert stride == 1 or edge // stride >= topology.MIN_FEATURE_EDGE
    # Planning again for the rounded patch changes nothing, so cutting step by step cannot run in circles.
    assert topology.plan_topology(spacing, stages.patch_size).patch_size == stages.patch_size


@pytest.mark.parametrize(
    ("name", "planner", "configuration"),
    [(name, planner, key) for name, described in RECORDED.items() for planner, plans in described["nnunet"].items()
     for key in plans],
)  # fmt: skip
def test_stages_are_those_of_nnunets_own_plans(name, planner, configuration):
    theirs = RECORDED[name]["nnunet"][planner][configuration]
    ours = topology.plan_topology(theirs["spacing"], theirs["patch_size"])
    assert ours.patch_size == theirs["patch_size"]
    assert ours.strides == theirs["strides"]
    assert ours.kernel_sizes == theirs["kernel_sizes"]


@pytest.mark.parametrize("name", RECORDED)
def test_the_spacing_of_full_resolution_is_nnunets(name):
    described = RECORDED[name]
    cases, theirs = described["cases"], described["nnunet"]["default"]
    shapes, spacings = (cases[key] * cases.get("repeat", 1) for key in ("shapes", "spacings"))
    spacing, _ = topology.target_spacing(spacings, shapes)
    assert spacing == pytest.approx(theirs["3d_fullres" if len(spacing) == 3 else "2d"]["spacing"], abs=1e-4)
