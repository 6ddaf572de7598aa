"""The fingerprint: the same bytes every time, measured on the scans' own grids."""

import json

import numpy as np
import pytest

from unet_bundle.errors import InputError
from unet_bundle.io import find_cases, read_dataset_json
from unet_bundle.planning.card import load_card
from unet_bundle.planning.fingerprint import measure_fingerprint, significant
from unet_bundle.planning.task_card import TaskCard


def measure(folder, workers=1, **changes):
    card = load_card(None, read_dataset_json(folder))
    return measure_fingerprint(find_cases(folder), TaskCard(**{**vars(card), **changes}), workers, progress=False)


def test_the_hippocampus_scans(shared_data):
    folder = shared_data("task04_hippocampus")
    fingerprint = measure(folder, workers=2, subject="(number - 1) // 2")
    assert fingerprint["num_cases"] == 200
    assert fingerprint["num_subjects"] == 131
    assert fingerprint["orientations"] == {"RAS": 200}
    assert np.median(fingerprint["cases"]["shapes"], axis=0).tolist() == [35, 50, 36]
    assert fingerprint["cases"]["spacings"] == [[1.0, 1.0, 1.0]] * 200
    assert fingerprint["labels"]["Anterior"]["cases"] == 200
    assert 1.0 < fingerprint["labels"]["Posterior"]["ml"] < 2.2
    # The scans' scales differ a thousandfold, which is why they are normalised one by one.
    assert fingerprint["intensities"][0]["max"] > 300_000


def test_order_and_workers_change_nothing(make_dataset):
    folder = make_dataset(cases=6)
    card = load_card(None, read_dataset_json(folder))
    cases = find_cases(folder)
    first = measure_fingerprint(cases, card, workers=1, progress=False)
    again = measure_fingerprint(cases[::-1], card, workers=3, progress=False)
    assert json.dumps(first) == json.dumps(again)


def test_holds_no_names_and_no_paths(make_dataset):
    folder = make_dataset(cases=2)
    text = json.dumps(measure(folder))
    assert "case_" not in text
    assert folder.name not in text


def test_counts_what_is_there(make_dataset):
    fingerprint = measure(make_dataset(cases=3))
    (statistics,) = fingerprint["intensities"]
    assert fingerprint["labels"]["background"]["voxels"] + fingerprint["labels"]["ball"]["voxels"] == 3 * 12 * 14 * 10
    voxels = fingerprint["labels"]["ball"]["voxels"] / 3
    assert fingerprint["labels"]["ball"]["ml"] == pytest.approx(voxels * 2.0 * 1.0 * 1.5 / 1000, rel=1e-5)
    assert statistics["mean"] == pytest.approx(100, abs=1)
    assert statistics["std"] == pytest.approx(5, abs=0.5)
    assert statistics["min"] < statistics["percentile_00_5"] < statistics["median"] < statistics["percentile_99_5"]


def test_axes_are_right_anterior_superior_whatever_the_file(make_dataset):
    posterior_inferior_right = np.array([[0, 0, 3.0, 0], [-2.0, 0, 0, 0], [0, -1.0, 0, 0], [0, 0, 0, 1]])
    fingerprint = measure(make_dataset(cases=1, shape=(12, 14, 10), affine=posterior_inferior_right))
    assert fingerprint["orientations"] == {"PIR": 1}
    assert fingerprint["cases"] == {"shapes": [[10, 12, 14]], "spacings": [[3.0, 2.0, 1.0]]}


def test_every_channel_is_measured(make_dataset):
    first, second = measure(make_dataset(cases=2, channels=2))["intensities"]
    assert second["mean"] == pytest.approx(2 * first["mean"], rel=1e-5)


def test_a_case_without_foreground_has_no_say_in_the_intensities(make_dataset):
    def second_is_empty(number, image, label):
        return (image + 1000, label * 0) if number == 2 else (image, label)

    fingerprint = measure(make_dataset(cases=2, change=second_is_empty))
    assert fingerprint["labels"]["ball"]["cases"] == 1
    assert fingerprint["intensities"][0]["max"] < 200


def test_refuses_a_data_set_without_any_foreground(make_dataset):
    with pytest.raises(InputError, match="no case has a labelled voxel"):
        measure(make_dataset(cases=2, change=lambda _, image, label: (image, label * 0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda number, image, label: (image, label * number),
            "case_003: the label holds 3, but the label values are 0 to 1",
        ),
        (lambda number, image, label: (image, label * (0.5 if number == 3 else 1.0)), "case_003: the label holds 0.5"),
        (lambda number, image, label: (image[number // 3 :], label), "case_003: image and label do not lie"),
        (lambda number, image, label: (np.stack([image] * (1 + number // 3), -1), label), "case_003.* 2 channels"),
        (lambda number, image, label: (image, np.stack([label] * (1 + number // 3), -1)), "case_003: the label has 2"),
    ],
)
def test_refuses_a_case_by_name(make_dataset, change, message):
    def third_is_broken(number, image, label):
        return change(number, image, label) if number == 3 else (image, label)

    with pytest.raises(InputError, match=message):
        measure(make_dataset(cases=4, change=third_is_broken), workers=2)


def test_refuses_no_cases():
    card = load_card(None, {"name": "a", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "a"}})
    with pytest.raises(InputError, match="no labelled cases"):
        measure_fingerprint([], card)


@pytest.mark.parametrize(("value", "rounded"), [(1234567.8, 1234570.0), (-0.000123456789, -0.000123457), (0.0, 0.0)])
def test_significant_digits(value, rounded):
    assert significant(value) == rounded
