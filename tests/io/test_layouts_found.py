"""Layouts that are found by looking, and patterns for those that are not. Empty files: names are read, not scans."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import (
    LoadImaged,
    SaveImaged,
    case_name,
    find_cases,
    find_images,
    output_name,
    read_description,
    select_cases,
    split_cases,
    survey_cases,
)
from unet_bundle.planning.card import load_card

NNUNET = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "tumour": 1},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}
BIDS = [
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz",
    "derivatives/manual/sub-01/anat/sub-01_dseg.nii.gz",
    "derivatives/manual/sub-02/ses-1/anat/sub-02_ses-1_space-orig_desc-manual_dseg.nii.gz",
]


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Writes empty files, and dataset.json if contents are given."""

    def make_files(names: list[str], dataset_json: dict[str, Any] | None = None) -> Path:
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        if dataset_json is not None:
            (tmp_path / "dataset.json").write_text(json.dumps(dataset_json))
        return tmp_path

    return make_files


def pairs(folder: Path, **patterns: Any) -> list[tuple[Any, str]]:
    """Cases as paths relative to the data set."""

    def relative(path: Any) -> Any:
        return [relative(one) for one in path] if isinstance(path, list) else Path(path).relative_to(folder).as_posix()

    return [(relative(case["image"]), relative(case["label"])) for case in find_cases(folder, **patterns)]


def problems(folder: Path, **patterns: Any) -> list[tuple[str, str, bool]]:
    return [(problem.kind, problem.file, problem.fatal) for problem in survey_cases(folder, **patterns).problems]


# --- nnU-Net ----------------------------------------------------------------------------------------------------


def nnunet_files(*cases: str, channels: int = 2) -> list[str]:
    images = [f"imagesTr/{case}_{channel:04d}.nii.gz" for case in cases for channel in range(channels)]
    return images + [f"labelsTr/{case}.nii.gz" for case in cases]


def test_nnunet_raw_data_gives_the_channel_files_of_each_case(make):
    folder = make(nnunet_files("b_2", "a_1"), NNUNET)
    assert pairs(folder) == [
        ([f"imagesTr/{case}_0000.nii.gz", f"imagesTr/{case}_0001.nii.gz"], f"labelsTr/{case}.nii.gz")
        for case in ("a_1", "b_2")
    ]
    assert survey_cases(folder).layout == "nnU-Net raw"


def test_cases_of_nnunet_have_the_names_its_splits_use(make, tmp_path):
    folder = make(nnunet_files("a", "b", channels=1), {**NNUNET, "channel_names": {"0": "CT"}})
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": ["a"], "val": ["b"]}]))
    (case,) = select_cases(find_cases(folder), "validation", splits_file=tmp_path / "splits_final.json")
    assert case_name(case["image"]) == case_name(case["label"]) == "b"


def test_nnunet_describes_itself_as_the_decathlon_does(make):
    description = read_description(make(nnunet_files("a"), NNUNET))
    assert description["modality"] == {"0": "T1", "1": "T2"}
    assert description["labels"] == {"0": "background", "1": "tumour"}


def test_test_scans_of_nnunet_are_found(make):
    names = ["imagesTs/c_0000.nii.gz", "imagesTs/c_0001.nii.gz"]
    folder = make([*nnunet_files("a"), *names], NNUNET)
    assert find_images(folder) == [{"image": [str(folder / name) for name in names]}]


def test_the_first_nnunet_lists_images_without_their_channels(make):
    entry = {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"}
    folder = make(nnunet_files("a"), {"modality": NNUNET["channel_names"], "training": [entry]})
    assert pairs(folder)[0][0] == ["imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"]


def test_a_case_that_lacks_a_channel_is_kept_by_choice(make):
    folder = make(nnunet_files("a", "b"), NNUNET)
    (folder / "imagesTr" / "b_0000.nii.gz").unlink()
    whole, lacking = find_cases(folder, missing_channels="zero")
    assert "missing_channels" not in whole
    assert lacking["missing_channels"] == [0]
    assert lacking["image"] == [str(folder / "imagesTr" / "b_0001.nii.gz")]
    assert case_name(lacking["image"]) == "b"
    with pytest.raises(ConfigError, match="missing_channels is 'none': it must be one of refuse, zero"):
        find_cases(folder, missing_channels="none")


def test_a_missing_and_a_surplus_channel_are_refused(make):
    folder = make(nnunet_files("a", "b"), NNUNET)
    (folder / "imagesTr" / "b_0001.nii.gz").unlink()
    assert problems(folder) == [("missing channel", "labelsTr/b.nii.gz", True)]
    with pytest.raises(InputError, match=r"^labelsTr/b.nii.gz lacks the image's channel b_0001, 2 are needed"):
        find_cases(folder)
    make(["imagesTr/b_0001.nii.gz", "imagesTr/a_0002.nii.gz"])
    with pytest.raises(InputError, match=r"^imagesTr/a_0002.nii.gz is one channel more than the 2"):
        find_cases(folder)


def test_colour_pictures_of_nnunet_are_one_file_a_case(make):
    names = [f"{folder}/{case}.png" for case in "ab" for folder in ("labelsTr",)]
    names += ["imagesTr/a_0000.png", "imagesTr/b_0000.png", "imagesTs/c_0000.png"]
    colours = {"0": "R", "1": "G", "2": "B"}
    folder = make(names, {**NNUNET, "channel_names": colours, "file_ending": ".png"})
    assert pairs(folder) == [([f"imagesTr/{case}_0000.png"], f"labelsTr/{case}.png") for case in "ab"]
    assert find_images(folder) == [{"image": [str(folder / "imagesTs/c_0000.png")]}]
    assert load_card(None, read_description(folder)).modality == ["red", "green", "blue"]
    make([f"imagesTr/{case}_000{channel}.png" for case in "ab" for channel in (1, 2)])  # channels of their own
    assert [len(image) for image, _ in pairs(folder)] == [3, 3]
    assert read_description(folder)["modality"] == colours


# --- images/ and labels/ ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("images", "labels"), [("images", "labels"), ("imagesTr", "labelsTr")])
def test_two_folders_are_paired_by_name(make, images, labels):
    folder = make([f"{images}/b.nii.gz", f"{images}/a.nii", f"{labels}/a.nii.gz", f"{labels}/b.nii.gz"])
    assert pairs(folder) == [(f"{images}/a.nii", f"{labels}/a.nii.gz"), (f"{images}/b.nii.gz", f"{labels}/b.nii.gz")]


def test_two_folders_of_pictures_are_paired(make):
    folder = make(["images/x.tif", "images/y.png", "labels/x.png", "labels/y.png"])
    assert pairs(folder) == [("images/x.tif", "labels/x.png"), ("images/y.png", "labels/y.png")]


def test_channel_suffixes_are_understood_but_a_number_in_a_name_is_none(make):
    folder = make(["images/a_0000.nii.gz", "images/a_0001.nii.gz", "labels/a.nii.gz"])
    assert pairs(folder) == [(["images/a_0000.nii.gz", "images/a_0001.nii.gz"], "labels/a.nii.gz")]
    make(["images/b_0001.nii.gz", "images/b_0002.nii.gz", "labels/b_0001.nii.gz", "labels/b_0002.nii.gz"])
    assert pairs(folder)[1:] == [(f"images/b_000{i}.nii.gz", f"labels/b_000{i}.nii.gz") for i in (1, 2)]


def test_what_is_left_over_is_named(make):
    folder = make(["images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz", "images/._c.nii.gz"])
    assert len(find_cases(folder)) == 1
    assert problems(folder) == [("image without label", "images/b.nii.gz", False)]
    make(["labels/d.nii.gz", "labels/e.nii.gz", "images/e_2019.nii.gz"])
    assert [file for kind, file, _ in problems(folder) if kind == "label without image"] == [
        "labels/d.nii.gz",
        "labels/e.nii.gz",
    ]
    with pytest.raises(InputError, match=r"^labels/d.nii.gz has no image in images"):
        find_cases(folder)


def test_folders_without_a_pair_are_refused(make):
    with pytest.raises(InputError, match="has no labelled case"):
        find_cases(make(["images/a.nii.gz", "labels/readme.txt"]))


def test_one_case_in_two_formats_is_refused(make):
    with pytest.raises(InputError, match=r"a.nii and a.nii.gz are both the case a"):
        find_cases(make(["images/a.nii.gz", "images/a.nii", "labels/a.nii.gz"]))


def test_the_nuclei_are_found_by_their_list_and_without_it(shared_data, tmp_path):
    folder = shared_data("dsb2018_nuclei")
    listed = find_cases(folder)
    assert len(listed) == 160
    for name in ("images", "labels"):
        (tmp_path / name).symlink_to(folder / name)
    found = find_cases(tmp_path)
    assert [case_name(case["image"]) for case in found] == [case_name(case["image"]) for case in listed]


# --- BIDS -------------------------------------------------------------------------------------------------------


def test_bids_derivatives_belong_to_the_raw_image_of_the_same_entities(make):
    assert pairs(make(BIDS)) == [(BIDS[0], BIDS[2]), (BIDS[1], BIDS[3])]


def test_bids_masks_need_a_label_entity_and_the_images_own_space(make):
    derived = "derivatives/seg/sub-01/anat/sub-01"
    others = [f"{derived}_desc-brain_mask.nii.gz", f"{derived}_space-MNI152_dseg.nii.gz"]
    folder = make([BIDS[0], f"{derived}_label-SC_mask.nii.gz", others[0]])
    assert pairs(folder) == [(BIDS[0], f"{derived}_label-SC_mask.nii.gz")]
    make([others[1]])
    with pytest.raises(InputError, match="has no raw image of its name"):
        find_cases(folder)


def test_bids_takes_the_suffix_that_the_label_names(make):
    label = "derivatives/labels/sub-01/anat/sub-01_T2w_label-SC_seg.nii.gz"
    assert pairs(make([BIDS[0], "sub-01/anat/sub-01_T2w.nii.gz", label])) == [("sub-01/anat/sub-01_T2w.nii.gz", label)]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("sub-01/anat/sub-01_T2w.nii.gz", "fits several images, sub-01_T1w.nii.gz and sub-01_T2w.nii.gz: state"),
        ("derivatives/auto/sub-01/anat/sub-01_dseg.nii.gz", "has several label maps, derivatives/auto/.* state"),
    ],
)
def test_bids_that_can_be_read_in_two_ways_is_refused(make, extra, message):
    with pytest.raises(InputError, match=message):
        find_cases(make([*BIDS, extra]))


def test_bids_leaves_out_subjects_without_label_and_other_runs(make):
    folder = make([*BIDS, "sub-03/anat/sub-03_T1w.nii.gz", "sub-03/anat/sub-03_FLAIR.nii.gz"])
    assert len(find_cases(folder)) == 2
    assert problems(folder) == [("image without label", "sub-03/anat/sub-03_T1w.nii.gz", False)]
    make(["derivatives/manual/sub-03/anat/sub-03_run-2_dseg.nii.gz"])
    assert ("label without image", "derivatives/manual/sub-03/anat/sub-03_run-2_dseg.nii.gz", True) in problems(folder)


def test_bids_describes_itself(make):
    folder = make(BIDS)
    (folder / "dataset_description.json").write_text(json.dumps({"Name": "Cords", "License": "CC0"}))
    (folder / "derivatives" / "manual" / "dseg.tsv").write_text("index\tname\n1\tcord\n2\tlesion\n")
    assert read_description(folder) == {
        "name": "Cords",
        "licence": "CC0",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "cord", "2": "lesion"},
        "subject": "(sub-[^_]+)",
    }


def test_bids_names_tell_the_subject_so_that_no_fold_tears_it_apart(make, tmp_path):
    again = "sub-01/ses-2/anat/sub-01_ses-2_T1w.nii.gz"
    folder = make([*BIDS, again, "derivatives/manual/sub-01/ses-2/anat/sub-01_ses-2_dseg.nii.gz"])
    description = read_description(folder)
    card = load_card(None, {**description, "modality": {"0": "MRI"}, "labels": {"0": "background", "1": "cord"}})
    for fold in range(2):
        parts = split_cases(find_cases(folder), fold, folds=2, subject_key=card.subject)
        training, validation = ({case_name(case["image"])[:6] for case in part} for part in parts)
        assert training.isdisjoint(validation)
    (tmp_path / "card.yaml").write_text("modality: [MRI]\nlabels: {background: 0, cord: 1}\nsubject: ses-(.)")
    assert load_card(tmp_path / "card.yaml", description).subject == "ses-(.)", "what the card states goes first"


# --- patterns ---------------------------------------------------------------------------------------------------


def test_the_spinal_cords_are_found_by_patterns(shared_data):
    folder = shared_data("spinalcord_mr")
    patterns = {"image_files": "*/{case}.nii.gz", "label_files": "*/{case}_seg-manual.nii.gz"}
    assert pairs(folder, **patterns) == [
        ("t1/t1w.nii.gz", "t1/t1w_seg-manual.nii.gz"),
        ("t2/t2.nii.gz", "t2/t2_seg-manual.nii.gz"),
    ]
    assert problems(folder, **patterns) == [("image without label", "dmri/dmri.nii.gz", False)]


def test_patterns_give_several_channels(make):
    names = [f"{case}/{case}_{kind}.nii.gz" for case in ("p1", "p2") for kind in ("t1", "flair", "seg")]
    folder = make(names)
    patterns: dict[str, Any] = {
        "image_files": ["{case}/{case}_t1.nii.gz", "{case}/{case}_flair.nii.gz"],
        "label_files": "**/{case}_seg.nii.gz",
    }
    assert pairs(folder, **patterns) == [
        ([f"{case}/{case}_t1.nii.gz", f"{case}/{case}_flair.nii.gz"], f"{case}/{case}_seg.nii.gz")
        for case in ("p1", "p2")
    ]
    (folder / "p2" / "p2_flair.nii.gz").unlink()
    assert problems(folder, **patterns) == [("missing channel", "p2/p2_seg.nii.gz", True)]


@pytest.mark.parametrize(
    ("image_files", "label_files", "error", "message"),
    [
        ("images/*.nii.gz", "labels/{case}.nii.gz", ConfigError, r"'images/\*.nii.gz' has no '{case}'"),
        ("../{case}.nii.gz", "labels/{case}.nii.gz", ConfigError, "leaves the data set's folder"),
        ("images/{case}.nii.gz", None, ConfigError, "belong together"),
        ("nowhere/{case}.nii.gz", "labels/{case}.nii.gz", InputError, "^labels/a.nii.gz has no image that fits"),
        ("images/{case}.nii.gz", "nowhere/{case}.nii.gz", InputError, "has no labelled case"),
        ("*/{case}.nii.gz", "labels/{case}.nii.gz", InputError, "both fit the pattern .* for case a: narrow it"),
    ],
)
def test_wrong_patterns_are_refused(make, image_files, label_files, error, message):
    folder = make(["images/a.nii.gz", "labels/a.nii.gz", "more/a.nii.gz"])
    with pytest.raises(error, match=message):
        find_cases(folder, image_files, label_files)


# --- several layouts --------------------------------------------------------------------------------------------


def test_two_layouts_with_different_cases_are_refused_in_one_line(make):
    folder = make(["images/a.nii.gz", "labels/a.nii.gz", *BIDS])
    with pytest.raises(InputError, match=r"fits two layouts, images/ and labels/ \(1 cases\) and BIDS") as refused:
        find_cases(folder)
    assert "\n" not in str(refused.value)
    assert pairs(folder, image_files="images/{case}.nii.gz", label_files="labels/{case}.nii.gz")


def test_a_list_goes_before_the_folders_it_names(make):
    entry = {"image": "images/a.nii.gz", "label": "labels/a.nii.gz"}
    folder = make([*entry.values(), "images/b.nii.gz", "labels/b.nii.gz"], {"training": [entry]})
    assert pairs(folder) == [("images/a.nii.gz", "labels/a.nii.gz")]


def test_a_dataset_json_that_lists_nothing_leaves_the_looking_to_us(make):
    folder = make(["images/a.nii.gz", "labels/a.nii.gz"], {"name": "A", "labels": {"0": "background", "1": "organ"}})
    assert len(find_cases(folder)) == 1
    assert read_description(folder)["labels"]["1"] == "organ"


def test_a_folder_that_says_nothing_is_called_by_its_name(make):
    folder = make(["images/a.nii.gz", "labels/a.nii.gz"])
    assert read_description(folder) == {"name": folder.name}


# --- reading ----------------------------------------------------------------------------------------------------


def test_channel_files_are_stacked_and_the_result_has_the_cases_name(tmp_path):
    affine = np.diag([1.0, 2.0, 3.0, 1.0])
    for name, value in [("images/a_0000", 1), ("images/a_0001", 2), ("labels/a", 1)]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image = nib.Nifti1Image(np.full((4, 5, 6), value, np.uint8), affine)
        image.set_sform(affine, 1)
        nib.save(image, tmp_path / f"{name}.nii.gz")
    (case,) = find_cases(tmp_path)
    loaded = LoadImaged(keys=("image", "label"), channels=(2, 1))(case)
    assert loaded["image"].shape == (2, 4, 5, 6)
    assert [float(channel.mean()) for channel in loaded["image"]] == [1, 2]
    SaveImaged(keys="image", output_dir=tmp_path / "out")({"image": loaded["image"][:1]})
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a_seg.nii.gz"] == [output_name(case["image"])]
