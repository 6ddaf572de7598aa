import json
from pathlib import Path

import pytest

from unet_bundle.errors import InputError
from unet_bundle.io import case_name, find_cases, find_images, find_scans, read_dataset_json, survey_cases


def make_decathlon(folder: Path, names: list[str], tests: list[str] | None = None, **fields: object) -> Path:
    """A Decathlon folder of empty files: the layout is read, not the scans."""
    training = []
    for name in names:
        entry = {"image": f"./imagesTr/{name}.nii.gz", "label": f"./labelsTr/{name}.nii.gz"}
        training.append(entry)
        for path in entry.values():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).touch()
    for name in tests or []:
        (folder / "imagesTs").mkdir(parents=True, exist_ok=True)
        (folder / "imagesTs" / name).touch()
    folder.mkdir(parents=True, exist_ok=True)
    contents = {"training": training, "test": [f"./imagesTs/{name}" for name in tests or []], **fields}
    (folder / "dataset.json").write_text(json.dumps(contents))
    return folder


def test_cases_of_a_decathlon_folder_come_sorted_with_both_paths(tmp_path):
    cases = find_cases(make_decathlon(tmp_path, ["liver_10", "liver_2", "liver_1"]))
    assert [case_name(case["image"]) for case in cases] == ["liver_1", "liver_10", "liver_2"]
    assert all(Path(case["label"]).parent.name == "labelsTr" and Path(case["label"]).is_file() for case in cases)


def test_the_hippocampus_set_is_found_whole(shared_data):
    folder = shared_data("task04_hippocampus")
    cases = find_cases(folder)
    assert len(cases) == read_dataset_json(folder)["numTraining"] == 200
    assert all(case_name(case["image"]) == case_name(case["label"]) for case in cases)


@pytest.mark.parametrize("missing", [None, "", "  "])
@pytest.mark.parametrize("find", [find_cases, find_images])
def test_a_data_set_that_is_not_given_is_asked_for(find, missing):
    with pytest.raises(InputError, match=r"^dataset_dir is not set: pass --dataset_dir FOLDER$"):
        find(missing)


@pytest.mark.parametrize("find", [find_cases, find_images])
def test_a_folder_that_is_not_there_is_refused(find, tmp_path):
    with pytest.raises(InputError, match=r"nowhere' does not exist: pass"):
        find(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InputError, match=r"notes.txt' is not a folder: pass"):
        find(tmp_path / "notes.txt")


def test_a_folder_in_no_known_layout_is_refused_with_the_remedy(tmp_path):
    (tmp_path / "scan.nii.gz").touch()
    with pytest.raises(
        InputError, match=r"has no dataset\.json and no other layout .* state image_files and label_files"
    ):
        find_cases(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "must hold one JSON object, not a list"),
        ('{"training": []}', "lists no labelled case"),
        ("{}", "lists no labelled case"),
        ('{"training": {}}', "'training' must be a list"),
        ('{"training": ["./imagesTr/a.nii.gz"]}', "needs an 'image' and a 'label'"),
        ('{"training": [{"image": 1, "label": 2}]}', "lists 1 where a file name belongs"),
        ('{"training": [{"image": "a.nii", "label": "b.nii"}]}', "^a.nii is listed in dataset.json but missing"),
    ],
)
def test_a_broken_dataset_json_is_refused_with_the_reason(tmp_path, text, message):
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(InputError, match=message):
        find_cases(tmp_path)


def test_a_listed_label_that_is_missing_is_named(tmp_path):
    folder = make_decathlon(tmp_path, ["liver_1", "liver_2"])
    (folder / "labelsTr" / "liver_2.nii.gz").unlink()
    with pytest.raises(InputError, match=r"^labelsTr/liver_2.nii.gz is listed in dataset.json but missing"):
        find_cases(folder)


def test_images_of_a_plain_folder_leave_out_what_is_hidden_or_no_scan(tmp_path):
    for name in ["b.nii.gz", "a.nii", "._a.nii", ".c.nii.gz.part", "notes.txt", "C.NII.GZ"]:
        (tmp_path / name).touch()
    (tmp_path / "folder.nii").mkdir()
    assert [Path(case["image"]).name for case in find_images(tmp_path)] == ["C.NII.GZ", "a.nii", "b.nii.gz"]
    assert find_images(tmp_path)[0].keys() == {"image"}


def test_images_of_a_decathlon_folder_are_its_test_scans(tmp_path):
    folder = make_decathlon(tmp_path, ["liver_1"], tests=["liver_8.nii.gz", "liver_7.nii.gz"])
    assert [case_name(case["image"]) for case in find_images(folder)] == ["liver_7", "liver_8"]
    (folder / "imagesTs" / "liver_8.nii.gz").unlink()
    with pytest.raises(InputError, match=r"^imagesTs/liver_8\.nii\.gz is listed in dataset.json but missing"):
        find_images(folder)


def test_one_scan_is_a_list_of_one(tmp_path):
    (tmp_path / "a.nii.gz").touch()
    assert find_images(tmp_path / "a.nii.gz") == [{"image": str(tmp_path / "a.nii.gz")}]


def test_a_folder_without_scans_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"holds no volume \(.nii.gz, .nii, .*\) and no picture"):
        find_images(tmp_path)
    with pytest.raises(InputError, match=r"holds no volume \(.nii.gz, .nii, .*\) and no picture"):
        find_images(make_decathlon(tmp_path / "all_labelled", ["liver_1"]))


def test_two_scans_with_one_result_name_are_refused(tmp_path):
    for name in ["a.nii.gz", "a.nii"]:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"a.nii and a.nii.gz are both the case a"):
        find_images(tmp_path)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("x/liver_1.nii.gz", "liver_1"),
        ("a.b.nii", "a.b"),
        ("A.NII.GZ", "A"),
        ("nii.gz", "nii.gz"),
        ("x.gz", "x.gz"),
        ("cells/a.b.PNG", "a.b"),
        ("a.tif", "a"),
        ("a.tiff", "a"),
        ("case_0000.nii.gz", "case_0000"),
    ],
)
def test_case_names(path, name):
    assert case_name(path) == case_name(Path(path)) == name


@pytest.mark.parametrize(
    ("channels", "name"),
    [
        (["x/a_0000.nii.gz", "x/a_0001.nii.gz"], "a"),
        (["case_12_0000.nii.gz"], "case_12"),
        (["case_12.nii.gz"], "case_12"),
        (["BraTS_001_t1.nii.gz", "BraTS_001_t1ce.nii.gz", "BraTS_001_flair.nii.gz"], "BraTS_001"),
        (["BraTS_001_t1.nii.gz", "BraTS_001_t2.nii.gz"], "BraTS_001"),
        (["sub-01_ses-1_T1w.nii.gz", "sub-01_ses-1_T2w.nii.gz"], "sub-01_ses-1"),
        (["a_t1.nii.gz", "a_t1ce.nii.gz"], "a"),
        (["t1.nii.gz", "flair.nii.gz"], "t1"),
    ],
)
def test_a_case_of_several_files_has_the_name_they_have_in_common(channels, name):
    assert case_name(channels) == case_name([Path(path) for path in channels]) == name


def test_a_list_may_name_several_files_as_channels(tmp_path):
    folder = make_decathlon(tmp_path, ["liver_1_t1", "liver_1_t2"])
    entry = {
        "image": ["imagesTr/liver_1_t1.nii.gz", "imagesTr/liver_1_t2.nii.gz"],
        "label": "labelsTr/liver_1_t1.nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps({"training": [entry], "test": [entry["image"]]}))
    paths = [str(folder / name) for name in entry["image"]]
    assert find_cases(folder) == [{"image": paths, "label": str(folder / entry["label"])}]
    assert find_images(folder) == [{"image": paths}]


def test_files_that_a_list_leaves_out_are_no_fault_but_told(tmp_path):
    folder = make_decathlon(tmp_path, ["liver_1", "liver_2"], tests=["liver_9.nii.gz"])
    for extra in ["imagesTr/liver_3.nii.gz", "labelsTr/._liver_1.nii.gz", "imagesTs/liver_10.nii.gz"]:
        (folder / extra).touch()
    assert len(find_cases(folder)) == 2
    (problem,) = survey_cases(folder).problems
    assert (problem.kind, problem.file, problem.fatal) == ("unlisted file", "imagesTr/liver_3.nii.gz", False)


def test_images_of_a_folder_of_channel_files_are_put_together_if_that_is_asked_for(tmp_path):
    names = ["a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz"]
    for name in names:
        (tmp_path / name).touch()
    assert len(find_images(tmp_path)) == len(find_images(tmp_path, channels=1)) == 4
    assert [case_name(case["image"]) for case in find_images(tmp_path, channels=2)] == ["a", "b"]
    with pytest.raises(InputError, match="lacks its channel a_0002, 3 are needed"):
        find_images(tmp_path, channels=3)
    (tmp_path / "b_0002.nii.gz").touch()  # not a channel of two: these are numbers of scans
    assert len(find_images(tmp_path, channels=2)) == 5


def test_pictures_beside_volumes_are_previews(tmp_path):
    for name in ["a.png", "b.tif"]:
        (tmp_path / name).touch()
    assert [case_name(case["image"]) for case in find_images(tmp_path)] == ["a", "b"]
    (tmp_path / "c.nii.gz").touch()
    assert [case_name(case["image"]) for case in find_images(tmp_path)] == ["c"]


def test_images_that_cannot_be_told_apart_are_refused_alone(tmp_path):
    for name in ("a.nii", "a.nii.gz", "b.nii.gz"):
        (tmp_path / name).touch()
    found = find_scans(tmp_path)
    assert [case_name(case["image"]) for case in found.cases] == ["b"]
    assert list(found.refused) == ["a"]


@pytest.mark.parametrize("missing_channels", ["refuse", "zero"])
def test_a_channel_that_is_missing_or_there_twice_spoils_its_scan_alone(missing_channels, tmp_path):
    for name in ("a_0000.nii", "a_0001.nii", "b_0000.nii", "c_0000.nii", "c_0000.nii.gz", "c_0001.nii"):
        (tmp_path / name).touch()
    found = find_scans(tmp_path, 2, missing_channels)
    filled = ["b"] if missing_channels == "zero" else []
    assert [case_name(case["image"]) for case in found.cases] == ["a", *filled]
    assert sorted(found.refused) == (["c"] if filled else ["b", "c"])
    assert found.refused["c"].startswith("c_0000.nii and c_0000.nii.gz are both the case c_0000")


def test_what_is_left_out_of_a_folder_is_logged_but_for_the_second_parts_of_volumes(tmp_path, caplog):
    for name in ("a.hdr", "a.img", "b.mhd", "b.raw"):
        (tmp_path / name).touch()
    find_images(tmp_path)
    assert caplog.messages == []
    (tmp_path / "more").mkdir()
    find_images(tmp_path)
    assert caplog.messages == ["left out: 1 subfolder"]
