"""The check names every fault of a broken data set, and none of a good one."""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import yaml

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import read_description
from unet_bundle.planning.card import load_card
from unet_bundle.planning.check import card_to_check, check_dataset
from unet_bundle.planning.findings import Report
from unet_bundle.planning.task_card import TaskCard

SHAPE = (12, 14, 10)
AFFINE = np.diag([2.0, 1.0, 1.5, 1.0])
HIPPOCAMPUS_CARD = Path(__file__).resolve().parents[2] / "configs" / "hippocampus.yaml"


class Folder:
    """images/ and labels/ of small scans with a bright ball; every scan has its own noise."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def scan(self, number: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
        noise = np.random.default_rng(number).normal(0, 5, shape)
        return (100 * self.ball(shape) + noise).astype(np.float32)

    def ball(self, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
        grid = np.indices(shape) - np.reshape([edge / 2 for edge in shape], (-1, *(1,) * len(shape)))
        return (np.linalg.norm(grid, axis=0) < 4).astype(np.uint8)

    def write(self, name: str, voxels: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
        path = self.path / f"{name}.nii.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = nib.Nifti1Image(voxels, affine)
        image.set_sform(affine, 1)
        image.set_qform(affine, 1)
        nib.save(image, path)
        return path

    def case(
        self, number: int, image: np.ndarray | None = None, label: np.ndarray | None = None,
        affine: np.ndarray = AFFINE, label_affine: np.ndarray | None = None,
    ) -> str:  # fmt: skip
        name = f"case_{number:02d}"
        self.write(f"images/{name}", self.scan(number) if image is None else image, affine)
        self.write(
            f"labels/{name}", self.ball() if label is None else label, affine if label_affine is None else label_affine
        )
        return name


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "scans")


@pytest.fixture
def check(make_card: Callable[..., TaskCard]) -> Callable[..., Report]:
    """Checks a folder with a card of one organ in two folds."""

    def check_folder(folder: Folder, labels: dict[str, int] | None = None, **changes: Any) -> Report:
        card = dataclasses.replace(make_card(labels), **{"folds": 2, **changes})
        return check_dataset(folder.path, card, workers=2, progress=False)

    return check_folder


def found(report: Report) -> list[tuple[str, str, str]]:
    return [(one.severity, one.kind, one.file) for one in report.findings]


Expected = list[tuple[str, str, str, str]]
"""Severity, kind, file and words of the message."""


def image_of(number: int) -> str:
    return f"images/case_{number:02d}.nii.gz"


def label_of(number: int) -> str:
    return f"labels/case_{number:02d}.nii.gz"


def break_files(folder: Folder) -> Expected:
    """Files that are missing, damaged, copied or of a kind that is not read."""
    path = folder.path / "images" / f"{folder.case(10)}.nii.gz"
    path.write_bytes(path.read_bytes()[:2000])
    (folder.path / "labels" / f"{folder.case(11)}.nii.gz").write_text("no image at all")
    folder.write("images/case_12", folder.scan(12))
    folder.write("labels/case_13", folder.ball())
    folder.case(14, image=np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])))
    folder.case(15, image=np.stack([folder.scan(15)] * 4, axis=-1).reshape(*SHAPE, 2, 2))
    folder.case(16)
    nib.save(nib.Nifti1Image(folder.scan(16), None), folder.path / image_of(16))
    folder.case(17, image=folder.scan(1))
    return [
        ("error", "unreadable", image_of(10), "is damaged or cut short"),
        ("error", "unreadable", label_of(11), "is not a NIfTI file"),
        ("warning", "image without label", image_of(12), "has no label in labels"),
        ("error", "label without image", label_of(13), "has no image in images"),
        ("error", "unreadable", image_of(14), "has RGB colour voxels"),
        ("error", "unreadable", image_of(15), "only one axis may follow the three of space"),
        ("error", "unreadable", image_of(16), "has neither sform nor qform"),
        ("error", "duplicate", image_of(17), f"holds the same voxels as {image_of(1)}"),
    ]


def break_grids(folder: Folder) -> Expected:
    """Shapes, affines, axes and spacings."""
    shifted, flipped = AFFINE.copy(), AFFINE * np.array([-1.0, 1, 1, 1])
    shifted[0, 3] = 3
    folder.case(20, label=folder.ball((12, 14, 9)))
    folder.case(21, label_affine=shifted)
    folder.case(22, label_affine=flipped)
    folder.case(23, affine=np.diag([20.0, 10.0, 15.0, 1.0]))
    folder.case(24, affine=np.diag([0.002, 0.001, 0.0015, 1.0]))
    folder.case(25, image=np.stack([folder.scan(25), folder.scan(250)], axis=-1))
    folder.case(26, image=folder.scan(26)[:, :, 5], label=folder.ball()[:, :, 5])
    return [
        ("error", "shape differs", label_of(20), "shape 12 x 14 x 9 against 12 x 14 x 10; tolerance 0.1 mm"),
        ("error", "affine differs", label_of(21), "corners up to 3 mm apart; tolerance 0.1 mm"),
        ("error", "affine differs", label_of(22), "axes LAS against RAS"),
        ("warning", "suspicious spacing", image_of(23), "voxels of 20 x 10 x 15 mm, the median case 2 x 1 x 1.5 mm"),
        ("warning", "suspicious spacing", image_of(24), "outside the usual 0.02 to 20 mm: check the unit"),
        ("error", "channel count", image_of(25), "is 4D (12 x 14 x 10 x 2), so it has 2 channels, but the modality"),
        ("error", "dimensions", image_of(26), "has 2 axes in space (12 x 14), most cases have 3"),
    ]


def break_voxels(folder: Folder) -> Expected:
    """Values of images and labels."""
    ball, scan = folder.ball(), folder.scan(30)
    scan[3, 3, 3], scan[4, 4, 4] = np.nan, np.inf
    folder.case(30, image=scan)
    folder.case(31, image=np.full(SHAPE, 3, np.float32))
    folder.case(32, label=7 * ball)
    folder.case(33, label=ball - 2 * folder.ball().astype(np.int16) * (np.indices(SHAPE)[0] > 5))
    folder.case(34, label=(0.5 * ball).astype(np.float32))
    folder.case(35, label=ball.astype(np.float64))
    folder.case(36, label=0 * ball)
    folder.case(37, label=np.stack([ball, ball], axis=-1))
    folder.case(38, label=np.where(ball, np.nan, 0).astype(np.float32))
    folder.case(39, label=0 * ball + 1)
    many = int(ball.sum())
    return [
        ("error", "unreadable", image_of(30), "has 2 voxels that are NaN, infinite"),
        ("error", "constant image", image_of(31), "has the value 3 everywhere"),
        ("error", "unknown labels", label_of(32), f"holds 7 in {many} voxels, but the stated labels are 0 to 1"),
        ("error", "unknown labels", label_of(33), "holds -1 in"),
        ("error", "fractional labels", label_of(34), f"has {many} voxels between whole numbers (0.5)"),
        ("note", "float labels", label_of(35), "is stored as float64, but every value is whole: accepted"),
        ("warning", "empty label", label_of(36), "labels nothing but background"),
        ("warning", "no background", label_of(39), "labels every voxel as foreground"),
        ("error", "label channels", label_of(37), "has 2 channels, a label map holds one whole number a voxel"),
        ("error", "unreadable", label_of(38), f"has {many} voxels that are NaN"),
    ]


def test_every_fault_of_a_broken_data_set_is_named_once_and_nothing_else(folder, check):
    for number in range(1, 10):
        folder.case(number)
    expected = sorted(
        [*break_files(folder), *break_grids(folder), *break_voxels(folder)],
        key=lambda one: (["error", "warning", "note"].index(one[0]), one[2]),
    )
    assert len(expected) == 25
    report = check(folder)
    assert found(report) == [one[:3] for one in expected]
    for finding, (*_, words) in zip(report.findings, expected, strict=True):
        assert words in finding.message
        assert "\n" not in finding.message
        assert str(folder.path) not in finding.message
    assert report.would_spoil_training


def test_a_good_data_set_has_no_findings_whatever_the_workers(folder, check, make_card):
    for number in range(5):
        folder.case(number)
    report = check(folder)
    assert report.findings == ()
    assert (report.cases, report.channels, report.would_spoil_training) == (5, 1, False)
    assert (
        report.summary()
        == "scans: 5 labelled cases, 1 channel (layout: images/ and labels/); nothing found that is wrong."
    )
    assert check_dataset(folder.path, make_card(folds=2), workers=1, progress=False) == report


def test_channel_files_that_are_missing_doubled_or_off_the_grid_are_named(folder, check):
    for number in range(6):
        for channel in range(2):
            folder.write(f"images/case_{number}_000{channel}", folder.scan(10 * number + channel))
        folder.write(f"labels/case_{number}", folder.ball())
    (folder.path / "images" / "case_1_0001.nii.gz").unlink()
    folder.write("images/case_2_0001", folder.scan(20))
    folder.write("images/case_3_0001", folder.scan(31), np.diag([2.0, 1.0, 3.0, 1.0]))
    folder.write("images/case_4_0001", np.zeros(SHAPE, np.uint8))
    folder.write("images/case_5_0000", folder.scan(1))  # channel 1 of case 0
    report = check(folder, modality=["T1", "T2"])
    assert found(report) == [
        ("error", "unreadable", "images/case_3_0001.nii.gz"),
        ("error", "duplicate", "images/case_5_0000.nii.gz"),
        ("error", "missing channel", "labels/case_1.nii.gz"),
        ("warning", "duplicate", "images/case_2_0000.nii.gz"),
        ("warning", "constant image", "images/case_4_0000.nii.gz"),
    ]
    assert "is not on the grid of case_3_0000.nii.gz" in report.findings[0].message


def test_without_a_card_the_rare_channel_count_is_the_odd_one(folder):
    for number in range(4):
        folder.case(number, image=np.stack([folder.scan(number), folder.scan(number + 50)], axis=-1))
    folder.case(4)
    report = check_dataset(folder.path, progress=False)
    assert found(report) == [("error", "channel count", "images/case_04.nii.gz"), ("warning", "no card", "")]
    assert report.findings[0].message.startswith("has 1 channel, but most cases have 2")
    assert "values found: 0, 1" in report.findings[1].message


def test_copies_of_one_subject_are_a_warning_since_they_stay_in_one_fold(folder, check):
    for number in (1, 2, 3, 4):
        folder.case(number)
    folder.case(2, image=folder.scan(1))
    assert found(check(folder, subject="(number - 1) // 2")) == [("warning", "duplicate", "images/case_02.nii.gz")]
    assert found(check(folder))[0][0] == "error"


def test_a_split_that_tears_a_subject_apart_is_an_error(folder, check, tmp_path):
    names = [folder.case(number) for number in (1, 2, 3, 4)]
    splits = tmp_path / "splits.json"
    splits.write_text(
        json.dumps([{"train": names[:2], "val": names[2:]}, {"train": names[1:], "val": names[:1]}]), encoding="utf-8"
    )
    report = check(folder, subject="(number - 1) // 2", splits_file=str(splits))
    assert found(report) == [("error", "subject in two folds", "")]
    assert "subject 0 both in training and in validation of fold 1" in report.findings[0].message
    assert check(folder, splits_file=str(splits)).findings == ()
    splits.write_text(json.dumps([{"train": names, "val": names[:1]}]), encoding="utf-8")
    assert found(check(folder, splits_file=str(splits))) == [("error", "subject in two folds", "")]


def test_folds_that_cannot_be_made_and_keys_that_do_not_fit_are_errors(folder, check):
    for number in (1, 2, 3):
        folder.case(number)
    assert "too few subjects (3) for 5 folds" in check(folder, folds=5).findings[0].message
    report = check(folder, subject="(sub-[0-9]+)")
    assert found(report) == [("error", "folds", "")]


def test_names_that_show_one_subject_twice_ask_for_a_subject_key(folder, check):
    for number, name in enumerate(["sub-01_ses-1", "sub-01_ses-2", "sub-02_ses-1"]):
        folder.write(f"images/{name}", folder.scan(number))
        folder.write(f"labels/{name}", folder.ball())
    assert found(check(folder)) == [("warning", "subject in two folds", "")]
    assert check(folder, subject="(sub-[^_]+)").findings == ()


def test_labels_that_no_case_has_are_told_once(folder, check):
    for number in range(3):
        folder.case(number)
    labels = {"background": 0, "ball": 1, "a": 2, "b": 3, "c": 4, "d": 5}
    report = check(folder, labels=labels)
    assert found(report) == [("warning", "label in no case", "")]
    assert "no case has a voxel of a, b, c and 1 more" in report.findings[0].message
    for number in range(3):
        folder.case(number, label=np.zeros(SHAPE, np.uint8))
    assert ("error", "empty labels", "") in found(check(folder))


def test_large_and_far_apart_label_values_are_counted_right(folder, check):
    for number in range(2):
        folder.case(number)
    label = folder.ball().astype(np.int32) * 3_000_000
    label[0, 0, 0], label[0, 0, 1] = 70_000, -2
    folder.case(1, label=label)
    assert "holds -2, 70000, 3000000 in" in check(folder).findings[0].message


def test_a_data_set_without_a_complete_case_is_an_error(folder, check):
    folder.write("images/a", folder.scan(1))
    folder.write("labels/b", folder.ball())
    assert [(severity, kind) for severity, kind, _ in found(check(folder))] == [
        ("error", "no cases"),
        ("error", "label without image"),
        ("warning", "image without label"),
    ]


def test_label_names_that_differ_by_case_only_are_refused():
    description = {"name": "a", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "Liver", "2": "liver"}}
    with pytest.raises(ConfigError, match="'Liver' and 'liver' differ by case only") as refused:
        card_to_check(None, description)
    assert "\n" not in str(refused.value)


def write_card(folder: Path, **values: Any) -> Path:
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump({"name": "a", "modality": ["CT"], "labels": {"background": 0, "b": 1}, **values}))
    return path


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        ({"image_files": "{case}.nii.gz"}, "image_files and label_files belong together"),
        ({"image_files": [], "label_files": "{case}.nii.gz"}, "image_files must be a pattern or a list of patterns"),
        ({"image_files": [1], "label_files": "{case}.nii.gz"}, "image_files must be a pattern or a list of patterns"),
        ({"image_files": "{case}.nii.gz", "label_files": 3}, "label_files must be text"),
    ],
)
def test_a_card_with_half_or_wrong_patterns_is_refused(tmp_path, patterns, message):
    with pytest.raises(ConfigError, match=message):
        card_to_check(write_card(tmp_path, **patterns), {})


# --- real data --------------------------------------------------------------------------------------------------


def test_the_hippocampus_set_has_the_two_notes_of_its_readme(shared_data):
    folder = shared_data("task04_hippocampus")
    start = time.perf_counter()
    report = check_dataset(folder, load_card(HIPPOCAMPUS_CARD, read_description(folder)), progress=False)
    assert time.perf_counter() - start < 60  # 3 s on an idle machine of two cores
    assert report.cases == 200
    assert found(report) == [
        ("note", "float labels", "labelsTr/hippocampus_003.nii.gz"),
        ("note", "float labels", "labelsTr/hippocampus_243.nii.gz"),
    ]


def test_the_spinal_cords_have_the_unlabelled_scan_of_their_readme(shared_data, make_card):
    card = make_card(image_files="*/{case}.nii.gz", label_files="*/{case}_seg-manual.nii.gz", folds=2)
    report = check_dataset(shared_data("spinalcord_mr"), card, progress=False)
    assert report.cases == 2
    assert found(report) == [("warning", "image without label", "dmri/dmri.nii.gz")]


def test_the_totalsegmentator_scans_are_without_fault(shared_data, make_card):
    labels = {"background": 0, **{f"organ {value}": value for value in range(1, 118)}}
    card = make_card(
        labels, modality="CT", image_files="ct/{case}.nii.gz", label_files="ct/{case}_seg*.nii.gz", folds=2
    )
    report = check_dataset(shared_data("totalsegmentator_examples"), card, progress=False)
    assert report.cases == 2
    assert found(report) == [("warning", "label in no case", "")]


def test_a_card_corrects_labels_that_dataset_json_states_in_no_known_form(shared_data, tmp_path):
    description = read_description(shared_data("dsb2018_nuclei"))
    with pytest.raises(InputError, match="state both in a card"):
        card_to_check(None, description)
    card = card_to_check(write_card(tmp_path, labels={"background": 0, "nucleus": 1}), description)
    assert card is not None
    assert card.labels == {"background": 0, "nucleus": 1}
    assert card.title == "DSB2018 nuclei"
