import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import LoadImaged
from unet_bundle.transforms import InstancesFromLabelsd, SeparateObjectsd
from unet_bundle.transforms.instances import close_seams, number_objects, open_seams, seams


@pytest.fixture(scope="module")
def crowded(shared_data):
    """The five label files of the nuclei in which most voxels touch another nucleus."""
    loaded = [
        LoadImaged("label")({"label": str(path)})["label"][0].numpy().astype(np.int32)
        for path in sorted((shared_data("dsb2018_nuclei") / "labels").iterdir())[:60]
    ]
    return sorted(loaded, key=lambda objects: -int(seams(objects).sum()))[:5]


def same_partition(one, other):
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]


def test_nuclei_that_touch_come_apart_and_get_their_seam_back(crowded):
    for objects in crowded:
        assert seams(objects).any()
        opened = open_seams(objects)
        numbered = number_objects((opened > 0).astype(np.int32))
        assert set(np.unique(opened)) == set(np.unique(objects)), "none vanishes"
        assert not seams(np.where(opened == objects, opened, 0)).any()
        true, merged = len(np.unique(objects)) - 1, number_objects((objects > 0).astype(np.int32)).max()
        assert merged < true, "by the class alone they hang together"
        assert numbered.max() >= true
        wrong = (close_seams(opened) != objects).mean()
        assert wrong < 7e-3, "gaps of one or two voxels in the truth are closed, too"
        lost = (objects > 0) & (close_seams(opened) != objects)
        assert lost.sum() < 0.003 * (objects > 0).sum()


def test_objects_apart_and_seams_of_a_voxel_come_back_exactly():
    objects = np.zeros((30, 30, 12), np.int32)
    objects[2:12, 2:12, 2:9], objects[12:20, 2:12, 2:9], objects[22:28, 20:28] = 1, 2, 3
    opened = open_seams(objects)
    assert (opened != objects).sum() == 2 * 10 * 7
    assert np.array_equal(close_seams(opened), objects)
    assert np.array_equal(open_seams(opened), opened)
    assert same_partition(close_seams(number_objects((opened > 0).astype(np.int32))), objects)


def test_an_object_that_is_all_seam_stays():
    objects = np.zeros((12, 12), np.int32)
    objects[2:6, 2:10], objects[6, 2:10], objects[7:11, 2:10] = 1, 2, 3
    opened = open_seams(objects)
    assert (opened == 2).sum() == 8
    assert (opened == 1).sum() == (opened == 3).sum() == 24


def test_classes_are_numbered_one_after_the_other_and_a_corner_holds_nothing_together():
    classes = np.zeros((8, 8), np.int32)
    classes[0:2, 0:2], classes[2:4, 2:4] = 2, 2
    classes[2:4, 0:2], classes[6:8, 6:8] = 1, 1
    numbered = number_objects(classes)
    assert numbered.max() == 4
    assert set(np.unique(numbered[classes == 1])) == {1, 2}
    assert set(np.unique(numbered[classes == 2])) == {3, 4}


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.5, 0.5)])
def test_a_neck_narrower_than_twice_the_core_is_cut(spacing):
    y, x = np.indices((40, 60))
    classes = (((y - 20) ** 2 + (x - 18) ** 2 <= 100) | ((y - 20) ** 2 + (x - 36) ** 2 <= 100)).astype(np.int32)
    classes[2, 2:5] = 1  # nowhere deep: one object
    size = spacing[0]
    assert number_objects(classes, 0.0, spacing).max() == 2
    divided = number_objects(classes, 7.0 * size, spacing)
    assert divided.max() == 3
    assert ((divided > 0) == (classes > 0)).all()
    left, right = divided[20, 18], divided[20, 36]
    assert left != right
    assert (divided == left).sum() == pytest.approx((divided == right).sum(), abs=25)
    assert ((divided == left) & (x > 30)).sum() == 0
    assert number_objects(classes, 2.0 * size, spacing).max() == 2, "the neck is wider"
    full = np.ones((6, 6), np.int32)
    assert (number_objects(full, 1.0) == 1).all()
    assert not number_objects(np.zeros((6, 6), np.int32), 1.0).any()


def test_the_transforms_keep_type_and_grid_and_agree_with_each_other(crowded):
    affine = torch.diag(torch.tensor([0.5, 0.5, 1.0], dtype=torch.float64))
    truth = MetaTensor(torch.from_numpy(crowded[0][None]).float(), affine=affine)
    separated = SeparateObjectsd("label")({"label": truth})["label"]
    assert separated.dtype == truth.dtype
    pred = MetaTensor((separated > 0).as_subclass(torch.Tensor).to(torch.uint8), affine=affine)
    item = InstancesFromLabelsd("pred")({"pred": pred, "image_path": "scan.png"})
    numbers, classes = item["instances"], item["pred"]
    assert numbers.dtype == torch.int32
    assert classes.dtype == torch.uint8
    assert torch.equal(numbers > 0, classes > 0), "both say the same of what is an object"
    assert (classes > 0).sum() > (pred > 0).sum()
    for each in (numbers, classes, separated):
        torch.testing.assert_close(each.affine, affine)
    untouched = InstancesFromLabelsd("pred", close=False)({"pred": pred})
    assert untouched["pred"] is pred


def test_more_objects_than_16_bits_are_refused():
    dots = torch.zeros(1, 514, 514, dtype=torch.uint8)
    dots[:, ::2, ::2] = 1
    with pytest.raises(InputError, match="has 66049 objects, more than the 65535"):
        InstancesFromLabelsd("pred")({"pred": dots})


@pytest.mark.parametrize("wrong", [{"core": -1.0}, {"core": float("inf")}])
def test_an_impossible_core_is_refused(wrong):
    with pytest.raises(ConfigError, match="core must be a length"):
        InstancesFromLabelsd("pred", **wrong)
