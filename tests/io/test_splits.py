import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import case_name, find_cases, select_cases, split_cases, subject_of
from unet_bundle.io.splits import read_splits

PAIRS = "(number - 1) // 2"


def cases_of(names):
    return [{"image": f"imagesTr/{name}.nii.gz", "label": f"labelsTr/{name}.nii.gz"} for name in names]


def names_of(cases):
    return [case_name(case["image"]) for case in cases]


@given(st.sets(st.integers(1, 400), min_size=12, max_size=60), st.integers(2, 6), st.integers(0, 5))
def test_folds_cover_every_case_once_and_tear_no_subject_apart(numbers, folds, seed):
    cases = cases_of(f"hippocampus_{number:03d}" for number in sorted(numbers))
    seen = []
    sizes = []
    for fold in range(folds):
        training, validation = split_cases(cases, fold, folds, PAIRS, seed)
        assert sorted(names_of(training) + names_of(validation)) == names_of(cases)
        subjects = [{subject_of(name, PAIRS) for name in names_of(part)} for part in (training, validation)]
        assert not subjects[0] & subjects[1]
        sizes.append(len(subjects[1]))
        seen += names_of(validation)
    assert sorted(seen) == names_of(cases)
    assert max(sizes) - min(sizes) <= 1


def test_a_split_does_not_depend_on_the_order_of_the_cases_and_never_changes():
    cases = cases_of(f"hippocampus_{number:03d}" for number in range(1, 21))
    validation = split_cases(cases, 0, 5, PAIRS)[1]
    assert names_of(validation) == [f"hippocampus_{number:03d}" for number in (5, 6, 17, 18)]
    assert sorted(names_of(split_cases(cases[::-1], 0, 5, PAIRS)[1])) == names_of(validation)
    assert names_of(split_cases(cases, 0, 5, PAIRS, seed=1)[1]) != names_of(validation)


def test_both_hippocampi_of_a_person_stay_together(shared_data):
    cases = find_cases(shared_data("task04_hippocampus"))
    for fold in range(5):
        training, validation = split_cases(cases, fold, subject_key=PAIRS)
        assert len(training) + len(validation) == 200
        people = [{(int(name[-3:]) + 1) // 2 for name in names_of(part)} for part in (training, validation)]
        assert not people[0] & people[1]


@pytest.mark.parametrize(
    ("name", "key", "subject"),
    [
        ("liver_12", None, "liver_12"),
        ("hippocampus_003", PAIRS, "1"),
        ("hippocampus_004", PAIRS, "1"),
        ("v2_scan_017", "number % 10 + -1", "6"),
        ("sub-07_ses-2", "(sub-[0-9]+)", "sub-07"),
        ("p12-left", "^p([0-9]+)", "12"),
    ],
)
def test_subjects_are_read_from_case_names(name, key, subject):
    assert subject_of(name, key) == subject


@pytest.mark.parametrize(
    ("name", "key", "error", "message"),
    [
        ("liver", PAIRS, InputError, "case liver has no number"),
        ("liver_1", "(sub-[0-9]+)", InputError, "case liver_1 does not match"),
        ("liver_1", "number // (number - 1)", ConfigError, "divides by zero for case liver_1"),
        ("liver_1", "number ** 2", ConfigError, "neither an expression in 'number'"),
        ("liver_1", "number / 2", ConfigError, "nor a regular expression with one group"),
        ("liver_1", "__import__('os').remove(number)", ConfigError, "neither"),
        ("liver_1", "[0-9]+", ConfigError, "neither"),
        ("liver_1", "(a)(b)", ConfigError, "neither"),
        ("liver_1", "(sub", ConfigError, "neither"),
    ],
)
def test_subject_keys_that_do_not_work_are_refused(name, key, error, message):
    with pytest.raises(error, match=message):
        subject_of(name, key)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"fold": 5}, ConfigError, "fold is 5: it must be a whole number from 0 to 4"),
        ({"fold": -1}, ConfigError, "fold is -1"),
        ({"fold": "0"}, ConfigError, "fold is '0'"),
        ({"fold": True}, ConfigError, "fold is True"),
        ({"fold": 0, "seed": -1}, ConfigError, "split_seed is -1: it must be a whole number from 0 to 4294967295"),
        ({"fold": 0, "seed": 2**32}, ConfigError, "split_seed is 4294967296"),
        ({"fold": 0, "folds": 1}, ConfigError, "folds is 1: it must be a whole number of at least 2"),
        ({"fold": 0, "folds": 7}, ConfigError, r"too few subjects \(6\) for 7 folds: set .folds: 6. or less in"),
        ({"fold": 0, "folds": 4, "subject_key": PAIRS}, ConfigError, r"too few subjects \(3\) for 4 folds"),
    ],
)
def test_folds_out_of_range_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        split_cases(cases_of(f"a_{number}" for number in range(1, 7)), **arguments)


def test_two_cases_of_one_name_are_refused():
    with pytest.raises(InputError, match="same name"):
        split_cases(cases_of(["a", "a"]), 0, 2)


@pytest.fixture
def write_splits(tmp_path):
    def write(contents):
        path = tmp_path / "splits_final.json"
        path.write_text(contents if isinstance(contents, str) else json.dumps(contents))
        return path

    return write


def test_a_splits_file_of_nnunet_replaces_the_shuffle(write_splits, caplog):
    cases = cases_of(["a_1", "a_2", "a_3", "a_4"])
    path = write_splits([{"train": ["a_1", "a_3"], "val": ["a_2"]}, {"train": ["a_2", "a_4"], "val": ["a_3", "a_1"]}])
    with caplog.at_level(logging.WARNING):
        training, validation = split_cases(cases, 0, splits_file=path)
    assert (names_of(training), names_of(validation)) == (["a_1", "a_3"], ["a_2"])
    assert "splits_final.json leaves out 1 of 4 cases in fold 0" in caplog.text
    assert names_of(select_cases(cases, "validation", 1, splits_file=str(path))) == ["a_1", "a_3"]


@pytest.mark.parametrize(
    ("contents", "arguments", "error", "message"),
    [
        ("[", {}, InputError, "not valid JSON"),
        ({"train": [], "val": []}, {}, InputError, "must be a list of"),
        ([{"train": ["a_1"]}], {}, InputError, "must be a list of"),
        ([{"train": ["a_1"], "val": ["a_9"]}], {}, InputError, "names a_9, which is not in the data set"),
        ([{"train": ["a_1"], "val": ["a_1"]}], {}, InputError, "has a_1 in training and in validation"),
        ([{"train": ["a_1"], "val": ["a_2"]}], {"fold": 1}, ConfigError, "from 0 to 0"),
        ([{"train": ["a_1"], "val": ["a_2"]}], {"subject_key": PAIRS}, InputError, "has subject 0 both"),
    ],
)
def test_a_splits_file_that_would_mislead_is_refused(write_splits, contents, arguments, error, message):
    with pytest.raises(error, match=message):
        split_cases(cases_of(["a_1", "a_2"]), **{"fold": 0, **arguments}, splits_file=write_splits(contents))


def test_a_splits_file_that_is_missing_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"splits file nowhere.json cannot be read \(No such file"):
        split_cases(cases_of(["a_1", "a_2"]), 0, splits_file=tmp_path / "nowhere.json")


def test_every_fold_of_a_splits_file_is_checked_when_it_is_read(write_splits):
    good = {"train": ["a_1"], "val": ["a_2"], "note": "x"}
    assert read_splits(write_splits([good])) == [{"train": ["a_1"], "val": ["a_2"]}]
    with pytest.raises(InputError, match="names a_7, which is not in the data set"):
        read_splits(write_splits([good, {"train": ["a_7"], "val": []}]), {"a_1", "a_2"})
    with pytest.raises(InputError, match="has subject 0 both in training and in validation of fold 1"):
        read_splits(write_splits([{"train": ["a_1"], "val": ["a_3"]}, good]), None, PAIRS)


def test_parts_are_selected_by_name():
    cases = cases_of(f"a_{number}" for number in range(10))
    training, validation = split_cases(cases, 1)
    assert select_cases(cases, "train", fold=1) == training
    assert select_cases(cases, "validation", fold=1) == validation
    assert select_cases(cases, "all", fold=1) == cases
    with pytest.raises(ConfigError, match="part is 'val': it must be 'train', 'validation' or 'all'"):
        select_cases(cases, "val", fold=1)
