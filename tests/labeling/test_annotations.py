from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.labeling.annotations import reason_to_leave_out, split_cases, usable_cases, values_of_annotators
from unet_bundle.planning.card import load_card
from unet_bundle.training.trained_cases import Origin, read_trained_cases, write_trained_cases
from unet_bundle.transforms import LabelValues

ROOT = Path(__file__).resolve().parents[2]
KNOWN = {0, 1, 2}


def case(folder: Path, name: str, *values: float, shift_mm: float = 0.0) -> dict[str, str]:
    labels = np.zeros((4, 4, 4), np.int32 if all(isinstance(value, int) for value in values) else np.float32)
    labels.flat[: len(values)] = values
    affine = np.eye(4)
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4), np.int16), affine), folder / f"{name}.nii.gz")
    affine[:3, 3] = shift_mm
    nib.save(nib.Nifti1Image(labels, affine), folder / f"{name}_label.nii.gz")
    return {"image": str(folder / f"{name}.nii.gz"), "label": str(folder / f"{name}_label.nii.gz")}


@pytest.mark.parametrize(
    ("values", "named"), [((1, 7, 9), "values 7, 9,"), ((1, 0.5), "value 0.5,"), ((1000000,), "value 1000000,")]
)
def test_a_value_that_the_bundle_does_not_know_is_named(tmp_path: Path, values: tuple[float, ...], named: str):
    reason = reason_to_leave_out(case(tmp_path, "a", *values), KNOWN)
    assert reason == f"its label map has {named} which the bundle has no class for"


def test_a_label_map_off_the_grid_of_its_scan_would_end_the_training_of_all_others(tmp_path: Path):
    assert reason_to_leave_out(case(tmp_path, "a", 2), KNOWN) is None
    shifted = reason_to_leave_out(case(tmp_path, "b", 2, shift_mm=7.0), KNOWN)
    assert shifted is not None
    assert "its label map is not on the scan's grid" in shifted


def test_cases_that_cannot_be_trained_on_are_left_out_with_the_reason(tmp_path: Path):
    damaged = case(tmp_path, "damaged", 1)
    Path(damaged["label"]).write_bytes(b"nothing")
    usable, left_out = usable_cases([case(tmp_path, "a", 1, 2), case(tmp_path, "b", 1, 5), damaged], KNOWN)
    assert [each["image"] for each in usable] == [str(tmp_path / "a.nii.gz")]
    assert left_out["b"] == "its label map has value 5, which the bundle has no class for"
    assert "damaged_label.nii.gz" in left_out["damaged"]


def test_what_annotators_store_are_the_bundles_classes_whatever_values_its_data_set_had():
    card = load_card(ROOT / "configs" / "totalsegmentator_ct.yaml", {})
    stated, classes = card.class_values(), np.asarray(sorted(card.labels.values()))
    assert stated is not None
    assert LabelValues(stated).classes(np.asarray([card.labels["liver"]])) == card.labels["kidney"], "what went wrong"
    given = values_of_annotators(stated, card.labels.values())
    np.testing.assert_array_equal(LabelValues(given).classes(classes), classes)
    ignoring = values_of_annotators([*stated, [255]], card.labels.values())  # its last class is that of no label
    np.testing.assert_array_equal(LabelValues(ignoring).classes(classes), classes)
    assert len(ignoring) == len(stated) + 1


def names(cases: list) -> set[str]:
    return {each["image"] for each in cases}


def test_a_case_that_was_trained_on_is_never_kept_back_later():
    every = [{"image": f"scan_{number:03d}.nii.gz", "label": ""} for number in range(60)]
    trained: set[str] = set()
    for count in range(5, 61, 5):
        training, validation = split_cases(every[:count], 0.2)
        assert len(training) + len(validation) == count
        assert validation
        assert not trained & names(validation)
        trained |= names(training)
    assert 6 <= len(validation) <= 18


def test_one_label_is_trained_on_and_of_two_one_is_kept_back():
    two = [{"image": "a.nii.gz", "label": ""}, {"image": "b.nii.gz", "label": ""}]
    assert [len(part) for part in split_cases(two[:1], 0.2)] == [1, 0]
    assert [len(part) for part in split_cases(two, 0.2)] == [1, 1]
    assert [len(part) for part in split_cases(two, 0)] == [2, 0]


@pytest.mark.parametrize("start", range(20))
def test_labels_that_come_one_by_one_are_trained_on_or_kept_back_for_good(tmp_path: Path, start: int):
    every = [{"image": f"scan_{start + number:03d}.nii.gz", "label": ""} for number in range(12)]
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    seen: set[str] = set()
    for count in range(1, 13):
        training, validation = split_cases(every[:count], 0.2, read_trained_cases(weights))
        assert training
        assert len(training) + len(validation) == count
        assert bool(validation) == (count > 1)
        assert not seen & names(validation)
        seen |= names(training)
        origin = Origin()
        origin.add(read_trained_cases(weights))
        write_trained_cases(weights, 0, training, origin)


def test_where_all_were_trained_on_there_is_something_to_compare_by(tmp_path: Path):
    every = [{"image": f"scan_{number}.nii.gz", "label": ""} for number in range(5)]
    weights = tmp_path / "model.pt"
    weights.write_bytes(b"weights")
    write_trained_cases(weights, 0, every)
    training, validation = split_cases(every, 0.2, read_trained_cases(weights))
    assert training
    assert validation
    assert split_cases(every, 0.2) == (training, validation)
