import pytest
import torch
from monai.data import MetaTensor

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.transforms import MergeRegionsd, PaintRegionsd, paint_regions, painted_values, region_masks

NESTED = {"whole": [1, 2, 3], "core": [2, 3], "rim": [3]}
SIDE_BY_SIDE = {"both": [2, 1], "left": [1]}
CROSSING = {"first": [1, 2], "second": [2, 3], "between": [2]}


@pytest.mark.parametrize("regions", [NESTED, SIDE_BY_SIDE, CROSSING])
def test_painted_regions_give_the_label_map_they_were_taken_from(regions):
    classes = max(max(values) for values in regions.values()) + 1
    label = torch.randint(0, classes, (1, 9, 8, 7), generator=torch.Generator().manual_seed(0))
    masks = region_masks(label, regions)
    assert masks.shape == (len(regions), 9, 8, 7)
    assert masks.dtype == torch.bool
    assert torch.equal(paint_regions(masks, painted_values(regions))[None], label)


@pytest.mark.parametrize(
    ("regions", "message"),
    [
        ({"core": [2], "whole": [1, 2]}, "'core' would be painted over wholly by the regions after it"),
        ({"whole": [1, 2, 3], "core": [3]}, r"'whole' cannot be painted.*values \[1, 2\] apart"),
    ],
)
def test_regions_that_cannot_be_painted_are_refused(regions, message):
    with pytest.raises(ConfigError, match=message):
        painted_values(regions)


def test_scores_become_a_label_map_with_the_scans_grid():
    label = torch.randint(0, 4, (1, 6, 5, 4), generator=torch.Generator().manual_seed(3))
    scores = MetaTensor(region_masks(label, NESTED).float() * 3 - 1, affine=torch.diag(torch.tensor([2.0, 3, 4, 1])))
    painted = PaintRegionsd("pred", NESTED)({"pred": scores, "image_path": "case"})
    assert torch.equal(painted["pred"].as_tensor(), label.float())
    assert torch.equal(painted["pred"].affine, scores.affine)
    assert painted["image_path"] == "case"


def test_later_regions_hide_earlier_ones():
    regions = MetaTensor(torch.tensor([[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 1]], dtype=torch.uint8)[:, :, None])
    merged = MergeRegionsd("pred", values=[2, 1, 300])({"pred": regions})["pred"]
    assert merged.shape == (1, 4, 1)
    assert merged.flatten().tolist() == [2, 1, 300, 300]
    assert isinstance(merged, MetaTensor)


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="whole number above 0"):
        MergeRegionsd("pred", values=[1, 0])
    with pytest.raises(InputError, match="3 regions, 2 values"):
        MergeRegionsd("pred", values=[1, 2])({"pred": torch.ones(3, 4, 4)})
