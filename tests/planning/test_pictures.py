"""Two-dimensional pictures from the data set's folder to the bundle's configs."""

import numpy as np
import pytest
import yaml
from PIL import Image

from unet_bundle.errors import InputError
from unet_bundle.io import find_cases
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
