import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from unet_bundle.errors import ConfigError
from unet_bundle.transforms import CleanLabelsd


@pytest.fixture
def labels() -> MetaTensor:
    """Class 1: a cube of 1000 voxels with a hole, two specks; class 2: a bar of 40 voxels, a speck at class 1."""
    voxels = torch.zeros(1, 30, 30, 30, dtype=torch.uint8)
    voxels[0, 2:12, 2:12, 2:12] = 1
    voxels[0, 5:7, 5:7, 5:7] = 0
    voxels[0, 20, 20, 20] = voxels[0, 25, 3, 3:6] = 1
    voxels[0, 20:22, 2:22, 25] = 2
    voxels[0, 12, 12, 12] = 2
    return MetaTensor(voxels, affine=torch.diag(torch.tensor([1.0, 1.0, 2.0, 1.0], dtype=torch.float64)))


def count(labels: torch.Tensor) -> list[int]:
    return np.bincount(labels.numpy().ravel(), minlength=3)[1:].tolist()


def test_nothing_asked_for_is_nothing_done(labels: MetaTensor) -> None:
    assert CleanLabelsd("pred")({"pred": labels})["pred"] is labels


def test_the_largest_object_stays(labels: MetaTensor) -> None:
    kept = CleanLabelsd("pred", keep_largest=[1])({"pred": labels})["pred"]
    assert count(labels) == [992 + 4, 41]
    assert count(kept) == [992, 41]
    assert kept.dtype == torch.uint8
    torch.testing.assert_close(kept.affine, labels.affine)


def test_small_objects_of_every_class_go_by_their_volume(labels: MetaTensor) -> None:
    """Voxels are 2 mm3: one has 0.002 ml, three have 0.006."""
    assert count(CleanLabelsd("pred", smallest_object_ml=0.003)({"pred": labels})["pred"]) == [992 + 3, 40]
    assert count(CleanLabelsd("pred", smallest_object_ml=0.0061)({"pred": labels})["pred"]) == [992, 40]


def test_holes_are_filled_but_no_other_class_is_touched(labels: MetaTensor) -> None:
    labels[0, 5, 5, 5] = 2
    filled = CleanLabelsd("pred", fill_holes=[1])({"pred": labels})["pred"]
    assert count(filled) == [1000 - 1 + 4, 42]


def test_several_steps_and_a_class_that_is_absent(labels: MetaTensor) -> None:
    clean = CleanLabelsd("pred", keep_largest=[1, 2, 3], fill_holes=[1, 3], smallest_object_ml=0.003)
    assert count(clean({"pred": labels})["pred"]) == [1000, 40]
    empty = torch.zeros(1, 8, 8, dtype=torch.uint8)
    assert not clean({"pred": empty})["pred"].any()


@pytest.mark.parametrize("wrong", [{"keep_largest": [0]}, {"fill_holes": [-1]}, {"smallest_object_ml": -0.1}])
def test_impossible_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match="must be classes above 0"):
        CleanLabelsd("pred", **wrong)  # type: ignore[arg-type]


def test_channels_of_regions_are_no_label_map(labels: MetaTensor) -> None:
    channels = {"pred": torch.cat([labels, labels])}
    assert CleanLabelsd("pred")(channels)["pred"] is channels["pred"]
    with pytest.raises(ConfigError, match="not on 2 channels: set region_channels to false"):
        CleanLabelsd("pred", keep_largest=[1])(channels)
