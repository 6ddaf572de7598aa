"""Full resolution, low resolution or slices: by rule, by flag, by card."""

import math

import pytest

from unet_bundle.errors import ConfigError
from unet_bundle.planning.docs import bundle_readme
from unet_bundle.planning.plan import make_plan

CT = ([512, 512, 400], [0.75, 0.75, 1.0])
THICK = ([40, 42, 7], [0.84, 0.84, 17.5])
PROSTATE = ([320, 320, 20], [0.625, 0.625, 3.6])
CUBE = ([36, 50, 35], [1.0, 1.0, 1.0])


def test_full_resolution_unless_something_is_said_and_advice_where_the_patch_covers_little(make_fingerprint, make_card):
    fingerprint, card = make_fingerprint(*CT), make_card()
    plan = make_plan(fingerprint, card, "24GB")
    assert plan.configuration == "full"
    assert plan.spacing == CT[1]
    assert "Low resolution is advisable" in bundle_readme(plan, fingerprint, card)
    assert "--configuration low" in bundle_readme(plan, fingerprint, card)
    small = make_plan(make_fingerprint(*CUBE), card)
    assert small.advice is None


@pytest.mark.parametrize("by", ["flag", "card"])
def test_low_resolution_covers_a_quarter_of_the_scan(make_fingerprint, make_card, by):
    card = make_card(overrides={} if by == "flag" else {"configuration": "low"})
    plan = make_plan(make_fingerprint(*CT), card, "24GB", "low" if by == "flag" else None)
    assert plan.configuration == "low"
    assert math.prod(plan.patch_size) / math.prod(plan.median_shape) >= 0.25
    assert all(coarse > edge for coarse, edge in zip(plan.spacing, CT[1], strict=True))
    # One step of 3 % finer would not do: at most 3 % coarser than needed, but for a patch that grows in steps.
    assert math.prod(plan.patch_size) / math.prod(plan.median_shape) < 0.4


def test_low_resolution_that_gains_nothing_is_refused(make_fingerprint, make_card):
    with pytest.raises(ConfigError, match="the patch covers 100% of the median scan"):
        make_plan(make_fingerprint(*CUBE), make_card(), configuration="low")


def test_slices_only_where_no_stage_joins_them(make_fingerprint, make_card):
    plan = make_plan(make_fingerprint(*THICK), make_card())
    assert (plan.configuration, plan.slice_axis, plan.spatial_dims) == ("2d", 2, 2)
    assert plan.spacing == [0.84, 0.84, None]
    assert plan.patch_size == [40, 48]
    assert plan.mirror_axes == [0, 1]
    assert "21 times thicker" in plan.reasons["configuration"]
    assert make_plan(make_fingerprint(*PROSTATE), make_card()).configuration == "full"
    assert make_plan(make_fingerprint(*THICK), make_card(), configuration="full").spatial_dims == 3


def test_slices_lie_across_the_coarsest_axis(make_fingerprint, make_card):
    sagittal = make_plan(make_fingerprint([20, 320, 320], [4.0, 0.7, 0.7]), make_card(), configuration="2d")
    assert sagittal.slice_axis == 0
    assert sagittal.spacing == [None, 0.7, 0.7]
    assert sagittal.mirror_axes == [1, 2]
    assert make_plan(make_fingerprint(*CUBE), make_card(), configuration="2d").slice_axis == 2


def test_volumes_of_one_slice_are_slices_whatever_their_thickness(make_fingerprint, make_card):
    for shape, spacing, axis in (([90, 80, 1], [2.0, 2.0, 1.0], 2), ([1, 80, 90], [0.5, 0.7, 0.7], 0)):
        plan = make_plan(make_fingerprint(shape, spacing), make_card())
        assert (plan.configuration, plan.slice_axis, plan.spatial_dims) == ("2d", axis, 2)
        assert plan.spacing[axis] is None
        assert axis not in plan.mirror_axes
        assert "single slice" in plan.reasons["configuration"]


def test_a_patch_of_two_edges_asks_for_slices(make_fingerprint, make_card):
    plan = make_plan(make_fingerprint(*CUBE), make_card(overrides={"patch_size": [40, 56]}))
    assert plan.configuration == "2d"
    assert plan.patch_size == [40, 56]


@pytest.mark.parametrize(
    ("scans", "overrides", "message"),
    [
        (CUBE, {"configuration": "2d", "patch_size": [40, 56, 40]}, "has 3 numbers, which is not for configuration"),
        (CUBE, {"configuration": "full", "patch_size": [40, 56]}, "has 2 numbers"),
        (CT, {"configuration": "low", "spacing": [1.0, 1.0, 1.0]}, "leave one of them out"),
        (([64, 64], [1.0, 1.0]), {"configuration": "2d"}, "these images are flat"),
        (THICK, {"mirror_axes": [0, 1, 2]}, "holds axis 2, across which slices are taken"),
        (CUBE, {"configuration": "3d"}, "one of full, low, 2d, not '3d'"),
    ],
)
def test_refuses_what_contradicts_itself(make_fingerprint, make_card, scans, overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(make_fingerprint(*scans), make_card(overrides=overrides))


def test_gpus_get_a_residual_encoder_and_the_card_may_choose(make_fingerprint, make_card):
    residual = make_plan(make_fingerprint(*CUBE), make_card(), "8GB")
    assert residual.network["encoder"] == "residual"
    assert residual.network["convolutions_per_stage"] == [1, 3, 4, 6]
    assert residual.num_workers > make_plan(make_fingerprint(*CUBE), make_card()).num_workers == 1
    plain = make_plan(make_fingerprint(*CUBE), make_card(overrides={"network": {"encoder": "plain"}}), "8GB")
    assert plain.network["convolutions_per_stage"] == 2
    on_cpu = make_plan(make_fingerprint(*CUBE), make_card(overrides={"network": {"encoder": "residual"}}))
    assert on_cpu.network["convolutions_per_stage"] == [1, 3, 4, 6]
