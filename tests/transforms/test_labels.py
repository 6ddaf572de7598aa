import math

import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.transforms import CheckLabelsd, LabelValues, MergeLabelsd, RandSpatiald, ResampleToSpacingd


def label_map(*values: float) -> MetaTensor:
    return MetaTensor(torch.tensor(values).reshape(1, -1, 1, 1), meta={"filename_or_obj": "/data/people/case_7.nii.gz"})


def test_classes_pass_untouched_whatever_their_type():
    for dtype in (torch.float32, torch.uint8, torch.int64):
        label = label_map(0, 1, 2).to(dtype)
        assert CheckLabelsd("label", num_classes=3)({"label": label, "image": 1})["label"] is label


@pytest.mark.parametrize("value", [3.0, -1.0, 1.9, float("nan")])
def test_any_other_value_is_refused_by_the_name_of_its_file(value):
    with pytest.raises(InputError, match=r"^case_7\.nii\.gz has 1 voxels .* whole numbers from 0 to 2$"):
        CheckLabelsd("label", num_classes=3)({"label": label_map(0, value, 2)})


def test_values_are_merged_as_listed():
    merge = MergeLabelsd("label", values=[["rest"], [5], ["25-50", 52], ["60000-70000"]])
    label = torch.tensor([0, 5, 24, 25, 50, 51, 52, 60000, 70000, 70001], dtype=torch.float32)
    merged = merge({"label": label})["label"]
    assert merged.tolist() == [0, 1, 0, 2, 2, 0, 2, 3, 3, 0]
    assert merged.dtype == torch.float32


@pytest.mark.parametrize("value", [3.0, -1.0, 1.5, math.nan])
def test_a_value_of_no_class_is_refused_unless_the_rest_is_given_to_one(value):
    label = torch.tensor([[0.0, 1.0, value]])
    with pytest.raises(InputError, match="the label has 1 voxels"):
        MergeLabelsd("label", values=[[], ["1-2"]])({"label": label})
    rest = MergeLabelsd("label", values=[["rest"], ["1-2"]])
    if value == 3.0:
        assert rest({"label": label})["label"].tolist() == [[0, 1, 0]]
    else:
        with pytest.raises(InputError, match="the label has 1 voxels"):
            rest({"label": label})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[], [1, 1]], "lists 1 twice"),
        ([[], ["1-5"], [4]], "lists 4 twice"),
        ([[], [0]], "gives 0 to a class"),
        ([["rest"], ["rest"]], "two classes"),
        ([[], ["5-1"]], "run upwards"),
        ([[], [1.5]], "give whole numbers"),
        ([[], ["all"]], "give whole numbers"),
    ],
)
def test_lists_that_cannot_be_are_refused_at_once(values, message):
    with pytest.raises(ConfigError, match=message):
        LabelValues(values)


def test_one_value_more_passes_where_nobody_labelled():
    check = CheckLabelsd("label", num_classes=3, ignore_index=3)
    assert torch.equal(check({"label": label_map(0, 2, 3)})["label"], label_map(0, 2, 3))
    with pytest.raises(InputError, match="value 4"):
        check({"label": label_map(0, 3, 4)})


def test_unlabelled_voxels_stay_so_through_turning_resampling_and_deformation():
    """Slice 2 of 6 is labelled: what becomes of the others is never a class, whatever is done to the grid."""
    voxels = torch.full((1, 20, 20, 6), 9.0)
    voxels[..., 2] = 0.0
    voxels[:, 5:15, 5:15, 2] = 1.0
    affine = torch.diag(torch.tensor([-1.0, 1.0, 3.0, 1.0], dtype=torch.float64))
    item = {"label": MetaTensor(voxels, affine=affine), "image": MetaTensor(torch.rand(1, 20, 20, 6), affine=affine)}
    prepared = Compose(
        [
            MergeLabelsd("label", [[0], [1], [9]]),
            CheckLabelsd("label", num_classes=2, ignore_index=2),
            Orientationd(["image", "label"], axcodes="RAS", labels=None),
            ResampleToSpacingd(["image", "label"], [0.8, 1.3, 2.0], mode=["bilinear", "nearest"]),
        ]
    )(item)
    labelled = (prepared["label"] != 2).float().mean()
    assert set(prepared["label"].unique().tolist()) == {0.0, 1.0, 2.0}
    assert labelled == pytest.approx(1 / 6, abs=0.06)
    spatial = RandSpatiald(
        ["image", "label"], (12, 10, 6), mode=["bilinear", "nearest"], rotate_range=[30.0] * 3, rotate_prob=1.0,
        zoom_range=[0.7, 1.4], zoom_prob=1.0, elastic_prob=1.0, elastic_sd=1.0, elastic_spacing=8.0,
        flip_axes=[0, 1, 2], swapped_labels=[[0, 1]],
    )  # fmt: skip
    values = [spatial.set_random_state(seed)(prepared)["label"] for seed in range(10)]
    assert set(torch.cat(values).unique().tolist()) == {0.0, 1.0, 2.0}
    assert all((value == 2).any() for value in values)
