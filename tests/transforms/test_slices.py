"""Slices of volumes: which are drawn, and what of the volume's indices goes on with them."""

import numpy as np
import pytest
import torch
from monai.transforms import ClassesToIndicesd, Compose

from unet_bundle.errors import ConfigError
from unet_bundle.transforms import RandSliced, RandSpatiald

SHAPE = (12, 10, 8)


@pytest.fixture
def scan() -> dict[str, torch.Tensor]:
    """Voxels that know their place; a large organ, and a small one in three slices of each axis."""
    image = torch.arange(int(np.prod(SHAPE)), dtype=torch.float32).reshape(1, *SHAPE)
    label = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    label[0, 1:6, 1:9, :5] = 1
    label[0, 8:11, 6:9, 4:7] = 2
    return {"image": image, "label": label}


def with_indices(scan: dict[str, torch.Tensor], classes: int = 3) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = ClassesToIndicesd("label", indices_postfix="_indices", num_classes=classes)(scan)
    return found


def slicing(axis: int, share: float, seed: int = 0) -> RandSliced:
    sliced = RandSliced(["image", "label"], axis, "label_indices", share)
    sliced.set_random_state(seed)
    return sliced


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_image_and_label_are_the_same_slice_and_indices_are_of_its_organ(scan, axis):
    draw = slicing(axis, 1.0)
    classes = set()
    for _ in range(30):
        item = draw(with_indices(scan))
        number = int(item["image"].flatten()[0]) // int(np.prod(SHAPE[axis + 1 :])) % SHAPE[axis]
        assert torch.equal(item["image"], scan["image"].select(axis + 1, number))
        assert torch.equal(item["label"], scan["label"].select(axis + 1, number))
        background, organ = item["label_indices"]
        values = item["label"].flatten()[torch.as_tensor(organ)]
        assert len(background) == 0
        assert len(set(values.tolist())) == 1
        value = int(values[0])
        classes.add(value)
        assert sorted(organ.tolist()) == torch.nonzero(item["label"].flatten() == value).flatten().tolist()
    assert classes == {1, 2}


def test_a_small_organ_comes_up_as_often_as_a_large_one(scan):
    draw = slicing(2, 1.0)
    drawn = [
        int(item["label"].flatten()[item["label_indices"][1][0]])
        for item in (draw(with_indices(scan)) for _ in range(300))
    ]
    assert 0.4 < drawn.count(2) / 300 < 0.6


@pytest.mark.parametrize("share", [0.0, 0.33, 1.0])
def test_the_share_of_slices_with_an_organ_is_what_is_asked_for(scan, share):
    draw = slicing(0, share)
    drawn = [len(draw(with_indices(scan))["label_indices"]) == 2 for _ in range(400)]
    assert np.mean(drawn) == pytest.approx(share, abs=0.08)


def test_without_an_organ_any_slice_is_drawn(scan):
    scan["label"][:] = 0
    draw = slicing(2, 1.0)
    items = [draw(with_indices(scan)) for _ in range(100)]
    assert {int(item["image"].flatten()[0]) for item in items} == set(range(SHAPE[2]))
    assert all([len(part) for part in item["label_indices"]] == [0] for item in items)


def test_a_volume_of_one_slice_gives_that_slice(scan):
    plane = {key: value[..., 4:5] for key, value in scan.items()}
    item = slicing(2, 1.0)(with_indices(plane))
    assert torch.equal(item["image"], plane["image"][..., 0])


def test_the_same_seed_draws_the_same_slices(scan):
    both = [[slicing(2, 0.5, 7)(with_indices(scan))["image"] for _ in range(3)] for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*both, strict=True))


def test_a_patch_of_the_slice_lies_round_the_organ_that_was_drawn(scan):
    """As the configs have it: the slice decides between organ and any place, the patch follows."""
    draw = Compose(
        [
            ClassesToIndicesd("label", indices_postfix="_indices", num_classes=3),
            slicing(2, 1.0),
            RandSpatiald(
                ["image", "label"], spatial_size=[4, 4], mode=["bilinear", "nearest"], indices_key="label_indices",
                foreground_fraction=1.0, rotate_prob=0.0, zoom_prob=0.0, flip_axes=[],
            ),
        ]
    )  # fmt: skip
    draw.set_random_state(3)
    for _ in range(20):
        item = draw(dict(scan))
        assert item["image"].shape == item["label"].shape == (1, 4, 4)
        assert item["label"].any()
        assert "label_indices" not in item


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_where_labels_are_sparse_only_labelled_slices_come_up(scan, share):
    sparse = torch.full_like(scan["label"], 3)
    sparse[:, :, :, ::5] = scan["label"][:, :, :, ::5]
    draw = RandSliced(["image", "label"], 2, "label_indices", share, labelled_only=True).set_random_state(1)
    numbers = set()
    for _ in range(60):
        item = draw(with_indices({**scan, "label": sparse}))
        numbers.add(int(item["image"].flatten()[0]))
        voxels = np.concatenate(item["label_indices"])
        assert len(voxels)
        assert not (item["label"].flatten()[torch.as_tensor(voxels)] == 3).any()
    assert numbers == {0, 5}


@pytest.mark.parametrize(("axis", "share", "message"), [(3, 0.5, "0, 1 or 2"), (2, 1.5, "from 0 to 1")])
def test_settings_that_cannot_be_are_refused(axis, share, message):
    with pytest.raises(ConfigError, match=message):
        RandSliced("image", axis, "label_indices", share)
