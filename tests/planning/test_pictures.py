"""Two-dimensional pictures from the data set's folder to the bundle's configs."""

import json
import re

import numpy as np
import pytest
import yaml
from PIL import Image

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import find_cases
from unet_bundle.planning.bundle import bundle_files
from unet_bundle.planning.card import load_card
from unet_bundle.planning.check import check_dataset
from unet_bundle.planning.fingerprint import measure_fingerprint
from unet_bundle.planning.plan import make_plan
from unet_bundle.planning.template import configs


@pytest.fixture
def cells(tmp_path):
    """Six pictures of three sizes, grey ones and one in colour; their labels number two cells each."""
    draw = np.random.RandomState(0)
    for folder in ("images", "labels"):
        (tmp_path / folder).mkdir()
    for number in range(6):
        rows, columns = [(64, 80), (96, 64), (128, 128)][number % 3]
        labels = np.zeros((rows, columns), np.uint16)
        labels[10:30, 20:40], labels[40:60, 5:20] = 1, 700
        picture = (draw.rand(rows, columns) * 90 + 100 * (labels > 0)).astype(np.uint8)
        if number == 5:
            picture = np.stack([picture, picture // 2, 255 - picture], axis=-1)
        Image.fromarray(picture).save(tmp_path / "images" / f"cell{number}.png")
        Image.fromarray(labels).save(tmp_path / "labels" / f"cell{number}.png")
    return tmp_path


def _card(folder, **changes):
    stated = {"name": "cells", "modality": ["RGB"], "labels": {"background": 0, "cell": 1}}
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump({**stated, "label_values": {"cell": "1-65535"}, **changes}))
    return load_card(path, {})


def test_grey_and_colour_pass_the_check_of_a_card_for_colour(cells):
    assert [*check_dataset(cells, _card(cells), progress=False).findings] == []


def test_numbers_of_cells_are_unknown_unless_the_card_merges_them(cells):
    card = _card(cells, label_values=None)
    kinds = [finding.kind for finding in check_dataset(cells, card, progress=False).findings]
    assert kinds == ["unknown labels"] * 6
    with pytest.raises(InputError, match="holds 700"):
        measure_fingerprint(find_cases(cells), card, progress=False)
    with pytest.raises(InputError, match="or another that label_values does not list"):
        measure_fingerprint(find_cases(cells), _card(cells, label_values={"cell": "1-699"}), progress=False)


def test_a_picture_in_colour_is_named_where_the_card_says_grey(cells):
    findings = check_dataset(cells, _card(cells, modality=["microscopy"]), progress=False).findings
    assert [(finding.kind, finding.file) for finding in findings] == [("channel count", "images/cell5.png")]


def test_the_configs_hold_what_the_card_states(cells):
    card = _card(cells)
    fingerprint = measure_fingerprint(find_cases(cells), card, progress=False)
    assert fingerprint["spatial_dims"] == 2
    assert sorted(map(tuple, fingerprint["cases"]["shapes"])) == sorted([(80, 64), (64, 96), (128, 128)] * 2)
    assert fingerprint["labels"]["cell"]["voxels"] == 6 * (400 + 300)
    files = configs(make_plan(fingerprint, card))
    inference, train = files["inference.json"], files["train.json"]
    assert inference["preprocessing"]["transforms"][0]["channels"] == ["RGB"]
    assert inference["orientation"] == "RA"
    assert inference["normalization"] == [{"scheme": "zscore_joint"}] * 3
    assert "channels" not in inference["dataset"]["data"], "three pictures are no channels of one"
    assert train["label_values"] == files["evaluate.json"]["label_values"] == [[], ["1-65535"]]


def test_the_bundle_of_pictures_counts_in_pixels(cells):
    card = _card(cells)
    fingerprint = measure_fingerprint(find_cases(cells), card, progress=False)
    plan = make_plan(fingerprint, card)
    files = bundle_files(plan, fingerprint, card)
    for name in ("docs/README.md", "configs/metadata.json", "configs/train.json", "configs/inference.json"):
        assert not re.findall(r"\b(mm|ml|nibabel|NIfTI|nii)\b", files[name]), name
    readme = files["docs/README.md"]
    assert "| median pixels |" in readme
    assert "| 1 | cell | 700 | 6 |" in readme
    assert "64..128 x 64..128 pixels (width, height)" in readme
    assert "`OUT/<name>_seg.png`" in readme
    stated = json.loads(files["configs/metadata.json"])
    assert stated["data_type"] == "png"
    assert {"pillow", "tifffile"} <= stated["required_packages_version"].keys()


@pytest.mark.parametrize(("edge", "stages"), [(8, 2), (32, 4), (64, 5), (128, 6)])
def test_a_patch_of_the_cards_own_gets_a_network_for_it(cells, edge, stages):
    card = _card(cells, overrides={"patch_size": [edge, edge]})
    fingerprint = measure_fingerprint(find_cases(cells), card, progress=False)
    plan = make_plan(fingerprint, card)
    assert plan.patch_size == [edge, edge]
    assert len(plan.network["channels"]) == stages
    assert plan.memory_bytes > 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"patch_size": [4, 4]}, "patches of 4 x 4 voxels are too small for a U-Net"),
        ({"patch_size": [100, 100]}, r"not divisible by the network's total strides: set \[112, 112\]"),
        (
            {"patch_size": [32, 32], "network": {"channels": [8] * 6, "strides": 2, "kernel_sizes": 3}},
            "shrinks to a single voxel",
        ),
    ],
)
def test_a_patch_that_cannot_be_is_refused_when_the_bundle_is_planned(cells, overrides, message):
    card = _card(cells, overrides=overrides)
    fingerprint = measure_fingerprint(find_cases(cells), card, progress=False)
    with pytest.raises(ConfigError, match=message) as refused:
        make_plan(fingerprint, card)
    assert "task card" in str(refused.value)
