import pytest
import torch
from monai.data import MetaTensor

from unet_bundle.errors import InputError
from unet_bundle.transforms import CheckLabelsd


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
