import math

import pytest
import torch
from monai.data import MetaTensor

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.transforms import CheckLabelsd, LabelValues, MergeLabelsd


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
