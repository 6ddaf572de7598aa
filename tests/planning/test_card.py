"""Task cards: what a person states, checked when it is read."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import read_dataset_json
from unet_bundle.planning.card import load_card

HIPPOCAMPUS_CARD = Path(__file__).resolve().parents[2] / "configs" / "hippocampus.yaml"
GOOD: dict[str, Any] = {
    "name": "kidneys",
    "modality": ["CT"],
    "labels": {"background": 0, "kidney left": 1, "kidney right": 2},
    "terms": {"kidney left": {"color": [200, 10, 0]}},
    "left_right_pairs": [["kidney left", "kidney right"]],
}


def write(folder: Path, changes: dict[str, Any]) -> Path:
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes, sort_keys=False), encoding="utf-8")
    return path


def test_without_a_card_dataset_json_tells_all(shared_data):
    card = load_card(None, read_dataset_json(shared_data("task04_hippocampus")))
    assert card.labels == {"background": 0, "Anterior": 1, "Posterior": 2}
    assert card.modality == ["MRI"]
    assert card.data_license == "CC-BY-SA 4.0"
    assert card.name == "hippocampus"
    assert (card.folds, card.seed, card.subject, card.overrides) == (5, 0, None, {})
    assert card.version in card.changelog


def test_the_card_goes_before_dataset_json(tmp_path):
    dataset_json = {"name": "Renal CT", "description": "from the file", "modality": {"0": "MRI"}, "labels": {"0": "b"}}
    card = load_card(write(tmp_path, {}), dataset_json)
    assert card.labels == GOOD["labels"]
    assert card.modality == ["CT"]
    assert card.description == "from the file"
    assert card.left_right_pairs == [["kidney left", "kidney right"]]


def test_the_hippocampus_card_names_subjects_terms_and_licence():
    card = load_card(HIPPOCAMPUS_CARD, {})
    assert card.subject == "(number - 1) // 2"
    assert "CC BY-SA 4.0" in card.data_license
    assert card.terms["anterior"]["type"] == {"value": "5366008", "scheme": "SCT", "meaning": "Hippocampus"}
    assert card.terms["posterior"]["type_modifier"]["meaning"] == "Posterior"
    assert all("color" in card.terms[name] for name in card.labels if name != "background")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lables": {}}, "unknown key 'lables': did you mean 'labels'"),
        ({"labels": {"background": 0, "Liver": 1, "liver": 2}}, "differ by case only"),
        ({"labels": {"background": 0, "liver": 2}}, "without a gap"),
        ({"labels": {"background": 0}}, "at least one organ"),
        ({"labels": {"liver": 0, "spleen": 1}}, "'background: 0'"),
        ({"labels": {"background": 0, "liver": "1"}}, "whole number"),
        ({"labels": {"background": 0, True: 1}}, "text for names"),
        ({"modality": "CT"}, r"such as \[MRI\]"),
        ({"terms": {"kidney lef": {}}}, "did you mean 'kidney left'"),
        ({"terms": {"kidney left": {"colour": [0, 0, 0]}}}, "did you mean 'color'"),
        ({"terms": {"kidney left": {"color": [0, 0, 256]}}}, r"from 0 to 255, not \[0, 0, 256\]"),
        ({"terms": {"kidney left": {"type": {"value": "1", "scheme": "SCT"}}}}, "value, scheme, meaning"),
        ({"terms": {"kidney left": {"type": {"value": 64033007, "scheme": "SCT", "meaning": "Kidney"}}}}, "in quotes"),
        ({"left_right_pairs": [["kidney left", "kidney"]]}, "names 'kidney', which is no label"),
        ({"left_right_pairs": [["kidney left", "background"]]}, "names 'background'"),
        ({"left_right_pairs": [["kidney left"]]}, "two label names"),
        ({"left_right_pairs": [["kidney left", "kidney right"], ["kidney right", "kidney left"]]}, "twice"),
        ({"version": 0.1}, "in quotes"),
        ({"version": "1"}, "major.minor.patch"),
        ({"version": "0.2.0", "changelog": {"0.1.0": "First."}}, "version '0.2.0' brought"),
        ({"folds": 1}, "at least 2"),
        ({"surface_tolerance": -1}, "surface_tolerance of all labels must be a length in mm"),
        ({"surface_tolerance": {"kidney left": "2 mm"}}, "surface_tolerance of kidney left must be a length"),
        ({"surface_tolerance": {"kidney lef": 2}}, "did you mean 'kidney left'"),
        ({"seed": True}, "whole number"),
        ({"seed": 2**32}, "seed must be a whole number from 0 to 4294967295"),
        ({"name": "my/bundle"}, "letters, digits"),
        ({"overrides": ["batch_size"]}, "overrides must be"),
    ],
)
def test_refuses_what_cannot_be_right(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message) as refused:
        load_card(write(tmp_path, changes), {})
    assert "card.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_refuses_a_label_given_twice(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_text("name: a\nmodality: [CT]\nlabels:\n  background: 0\n  liver: 1\n  liver: 2\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="'liver' is given twice"):
        load_card(path, {})


@pytest.mark.parametrize("text", ["- a list", "labels: {unclosed", "just text"])
def test_refuses_what_is_no_card(tmp_path, text):
    path = tmp_path / "card.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"card\.yaml") as refused:
        load_card(path, {})
    assert "\n" not in str(refused.value)


def test_a_missing_card_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.yaml' cannot be read"):
        load_card(tmp_path / "absent.yaml", {})


@pytest.mark.parametrize("key", ["name", "modality", "labels"])
def test_a_value_that_nobody_states_is_asked_for(tmp_path, key):
    with pytest.raises(InputError, match=f"add '{key}'"):
        load_card(write(tmp_path, {key: None}), {})


def test_refuses_a_dataset_json_that_names_two_labels_alike():
    with pytest.raises(InputError, match="name them apart"):
        load_card(None, {"name": "a", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "a", "2": "a"}})


def test_refuses_labels_in_a_form_it_does_not_know():
    with pytest.raises(InputError, match="correct it or state both in a card"):
        load_card(None, {"name": "a", "modality": {"0": "CT"}, "labels": {"background": 0, "a": 1}})


def test_label_values_are_lists_in_the_order_of_the_classes(tmp_path):
    stated = {"kidney left": 3, "kidney right": ["2", 7, "10-12"], "background": "rest"}
    with pytest.raises(ConfigError, match="label_values has '2'"):
        load_card(write(tmp_path, {"label_values": stated}), {})
    stated["kidney right"] = [2, 7, "10-12"]
    card = load_card(write(tmp_path, {"label_values": stated}), {})
    assert card.class_values() == [["rest"], [3], [2, 7, "10-12"]]
    assert load_card(write(tmp_path, {}), {}).class_values() is None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kidney left": 1}, "says nothing of 'kidney right'"),
        ({"kidney left": 1, "kidney right": 1}, "lists 1 twice"),
        ({"kidney left": 1, "kidny right": 2}, "did you mean 'kidney right'"),
        ([1, 2], "must be 'label: values' lines"),
    ],
)
def test_label_values_that_cannot_be_are_refused(tmp_path, values, message):
    with pytest.raises(ConfigError, match=message):
        load_card(write(tmp_path, {"label_values": values}), {})


CELLS = {"label_values": {"kidney left": "1-99", "kidney right": "100-199"}, "instances": True}


def test_border_weights_are_the_papers_where_the_card_leaves_them_open(tmp_path):
    assert load_card(write(tmp_path, {}), {}).border_weight is None
    assert load_card(write(tmp_path, CELLS), {}).border_weight is None
    for stated, sigma in (({}, 5.0), ({"sigma": 2}, 2)):
        card = load_card(write(tmp_path, {**CELLS, "border_weight": stated}), {})
        assert card.border_weight == {"w0": 10.0, "sigma": sigma, "balance": False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"instances": True}, "instances needs label_values"),
        ({**CELLS, "instances": "yes"}, "instances must be true or false"),
        ({**CELLS, "instances": False, "border_weight": {}}, "state 'instances: true', too"),
        ({**CELLS, "border_weight": True}, "must be such as {w0: 10, sigma: 5}"),
        ({**CELLS, "border_weight": {"sigmas": 5}}, "did you mean 'sigma'"),
        ({**CELLS, "border_weight": {"w0": -1}}, "must have a w0 of at least 0"),
        ({**CELLS, "border_weight": {"sigma": "5 px"}}, "a sigma above 0"),
        ({**CELLS, "border_weight": {"balance": 1}}, "true or false for balance"),
        ({**CELLS, "ignore": 255}, "go with neither ignore nor regions"),
        ({**CELLS, "regions": {"kidneys": [1, 2]}}, "go with neither ignore nor regions"),
    ],
)
def test_objects_and_weights_that_cannot_be_are_refused(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        load_card(write(tmp_path, changes), {})


def test_rgb_stands_for_three_channels(tmp_path):
    assert load_card(write(tmp_path, {"modality": ["RGB"]}), {}).modality == ["red", "green", "blue"]


@pytest.mark.parametrize("name", ["nuclei", "nuclei_borders", "totalsegmentator_ct", "spinalcord"])
def test_cards_of_the_data_sets_are_right(name):
    load_card(HIPPOCAMPUS_CARD.with_name(f"{name}.yaml"), {})
