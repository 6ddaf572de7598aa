"""Values to be ignored and regions: what a card may state of them, and what of it comes into the bundle."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import find_cases, read_dataset_json
from unet_bundle.planning.bundle import bundle_files, metadata
from unet_bundle.planning.card import load_card
from unet_bundle.planning.check import check_dataset
from unet_bundle.planning.docs import bundle_readme
from unet_bundle.planning.fingerprint import measure_fingerprint
from unet_bundle.planning.plan import make_plan
from unet_bundle.planning.task_card import TaskCard
from unet_bundle.planning.template import configs

LABELS = {"background": 0, "oedema": 1, "necrosis": 2, "enhancing": 3}
REGIONS = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": [3]}


def read(folder: Path, **stated: Any) -> TaskCard:
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump({"name": "a", "modality": ["MRI"], "labels": LABELS, **stated}, sort_keys=False))
    return load_card(path, {})


def test_the_ignored_value_is_read_as_one_class_more(tmp_path: Path) -> None:
    card = read(tmp_path, ignore=255)
    assert card.class_values() == [[0], [1], [2], [3], [255]]
    assert card.ignore_index == 4
    merged = {"oedema": [10, "20-30"], "necrosis": 5, "enhancing": "rest"}
    assert read(tmp_path, ignore=255, label_values=merged).class_values() == [[], [10, "20-30"], [5], ["rest"], [255]]
    assert read(tmp_path).ignore_index is None


def test_regions_take_the_place_of_labels(tmp_path: Path) -> None:
    card = read(tmp_path, regions=REGIONS, surface_tolerance={"core": 2.0})
    assert card.targets() == ["whole", "core", "enhancing"]
    assert list(card.segments()) == ["oedema", "necrosis", "enhancing"]
    assert read(tmp_path).targets() == ["oedema", "necrosis", "enhancing"]


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"ignore": 3}, "ignore is 3, which is the value of a label as well"),
        ({"ignore": 0}, "whole number above 0, not 0"),
        ({"ignore": "rest"}, "whole number above 0, not 'rest'"),
        ({"ignore": 7, "label_values": {"oedema": 1, "necrosis": "2-9", "enhancing": 20}}, "value of a label as well"),
        ({"labels": {**LABELS, "Ignore": 4}}, "'Ignore', which would be learnt as an organ: state 'ignore: 4'"),
        ({"regions": {**REGIONS, "core": [2, 4]}}, r"'core' holds 4, .*labels have \[1, 2, 3\]"),
        ({"regions": {**REGIONS, "core": [0, 2]}}, "'core' holds 0"),
        ({"regions": {**REGIONS, "core": 2}}, "must be a list of label values"),
        ({"regions": {**REGIONS, "core": [2, 2, 3]}}, "holds a value twice"),
        ({"regions": [[1, 2, 3]]}, "lines in the order in which they are painted"),
        ({"regions": {}}, "lines in the order in which they are painted"),
        ({"regions": {"core": [2, 3], "enhancing": [3]}}, "label 'oedema' is in no region"),
        (
            {"regions": {"enhancing": [3], "core": [2, 3], "whole": [1, 2, 3]}},
            "'enhancing' would be painted over wholly",
        ),
        ({"regions": {"whole": [1, 2, 3], "enhancing": [3]}}, r"'whole' cannot be painted.*\[1, 2\]"),
        ({"regions": {**REGIONS, "background": [1]}}, "other than 'background'"),
        ({"regions": {"whole": [1, 2, 3], "Whole": [2, 3], "enhancing": [3]}}, "differ by case only"),
        ({"regions": {"oedema": [1, 2, 3], "core": [2, 3], "enhancing": [3]}}, "has the name of the label of value 1"),
        ({"regions": REGIONS, "surface_tolerance": {"necrosis": 1.0}}, "'necrosis', which is no region"),
    ],
)
def test_what_cannot_be_right_is_refused_in_one_line(tmp_path: Path, stated: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        read(tmp_path, **stated)
    assert "card.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_nnunet_states_to_be_ignored_is_taken_over_and_its_regions_are_asked_for(tmp_path: Path) -> None:
    from unet_bundle.io import read_description

    def described(labels: dict[str, Any]) -> dict[str, Any]:
        contents = {"name": "a", "channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ".nii.gz"}
        (tmp_path / "dataset.json").write_text(json.dumps(contents))
        return read_description(tmp_path)

    card = load_card(None, described({"background": 0, "organ": 1, "ignore": 2}))
    assert (card.labels, card.ignore) == ({"background": 0, "organ": 1}, 2)
    with pytest.raises(InputError, match="states regions: name each label value under 'labels' in a task card"):
        load_card(None, described({"background": 0, "whole": [1, 2], "core": 2}))


# --- a data set of balls, whose upper half nobody labelled ------------------------------------------------------


@pytest.fixture
def sparse(make_dataset: Callable[..., Path]) -> Path:
    def change(_number: int, image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        image[..., 5:] += 1000  # bright where nobody labelled: it would show in the statistics
        label[..., 5:] = 9
        return image, label

    return make_dataset(cases=4, change=change)


def card_of(folder: Path, **changes: Any) -> TaskCard:
    return dataclasses.replace(load_card(None, read_dataset_json(folder)), folds=2, **changes)


def test_unlabelled_voxels_are_measured_as_such(sparse: Path) -> None:
    card = card_of(sparse, ignore=9)
    fingerprint = measure_fingerprint(find_cases(sparse), card, 1, progress=False)
    assert fingerprint["ignored"] == pytest.approx(0.5)
    assert fingerprint["intensities"][0]["max"] < 500
    assert list(fingerprint["labels"]) == ["background", "ball"]
    voxels = sum(entry["voxels"] for entry in fingerprint["labels"].values())
    assert voxels == 4 * 12 * 14 * 5

    plan = make_plan(fingerprint, card)
    assert "50 % of the voxels are unlabelled" in bundle_readme(plan, fingerprint, card)
    with pytest.raises(ConfigError, match="states no value to be ignored, which the data set was measured with"):
        make_plan(fingerprint, card_of(sparse))


def test_the_check_accepts_the_ignored_value_and_tells_where_it_is_odd(sparse: Path) -> None:
    assert check_dataset(sparse, card_of(sparse, ignore=9), progress=False).findings == ()
    report = check_dataset(sparse, card_of(sparse), progress=False)
    assert {finding.kind for finding in report.findings} == {"unknown labels"}
    (finding, *_) = check_dataset(sparse, card_of(sparse, ignore=8), progress=False).findings
    assert "holds 9 in 840 voxels, but the task card does not list them" in finding.message


def test_a_case_that_nobody_labelled_and_a_value_that_never_comes_are_warned_of(
    make_dataset: Callable[..., Path],
) -> None:
    def change(number: int, image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return image, np.full_like(label, 9) if number == 2 else label

    folder = make_dataset(cases=4, change=change)
    (finding,) = check_dataset(folder, card_of(folder, ignore=9), progress=False).findings
    assert (finding.severity, finding.kind) == ("warning", "empty label")
    assert "has the value 9 everywhere, which is to be ignored" in finding.message

    folder = make_dataset(cases=4)
    (finding,) = check_dataset(folder, card_of(folder, ignore=9), progress=False).findings
    assert "no case has a voxel of 9" in finding.message


def test_the_bundle_says_what_regions_its_network_gives(sparse: Path) -> None:
    regions = {"both": [1, 2], "right": [2]}
    labels = {"background": 0, "left": 1, "right": 2}
    card = card_of(sparse, labels=labels, ignore=9, regions=regions)
    fingerprint = measure_fingerprint(find_cases(sparse), card, 1, progress=False)
    plan = make_plan(fingerprint, card)
    assert plan.network["out_channels"] == 2
    pred = metadata(plan, card)["network_data_format"]["outputs"]["pred"]
    assert (pred["num_channels"], pred["channel_def"]) == (2, {"0": "both", "1": "right"})
    assert metadata(plan, card)["task"] == "Segmentation of both, right in MRI"
    files = bundle_files(plan, fingerprint, card)
    assert "| both | 1, 2 |" in files["docs/README.md"]
    for name in ("train.json", "inference.json", "evaluate.json"):
        assert json.loads(files[f"configs/{name}"])["regions"] == regions
    assert configs(plan)["inference.json"]["labels"] == labels


def test_a_plain_bundle_has_the_plain_loss_and_none_of_these_keys(make_dataset: Callable[..., Path]) -> None:
    folder = make_dataset()
    card = card_of(folder)
    plan = make_plan(measure_fingerprint(find_cases(folder), card, 1, progress=False), card)
    text = json.dumps(configs(plan))
    assert configs(plan)["train.json"]["loss"]["loss"]["_target_"] == "DiceCELoss"
    assert not any(word in text for word in ("ignore_index", "region", "labelled_only"))
