"""A bundle in one's own program gives what the command line gives."""

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.bundle import ConfigParser

from unet_bundle.cli import main
from unet_bundle.errors import CheckpointError, ConfigError, InputError
from unet_bundle.predictor import Predictor

BUNDLE = Path(__file__).parents[1] / "bundle"


@pytest.fixture(scope="module")
def scans(shared_data: Callable[[str], Path]) -> list[Path]:
    return sorted(shared_data("task04_hippocampus").glob("imagesTr/*.nii.gz"))[:3]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(BUNDLE, device="cpu")


def test_labels_are_those_of_the_command_line(scans: list[Path], predictor: Predictor, tmp_path: Path) -> None:
    assert main(["predict", str(BUNDLE), str(scans[0]), str(tmp_path / "cli")]) == 0
    labels = predictor.save(scans[0], tmp_path / "own")
    name = f"{scans[0].name.removesuffix('.nii.gz')}_seg.nii.gz"
    theirs, ours = (nib.load(tmp_path / folder / name) for folder in ("cli", "own"))
    np.testing.assert_array_equal(np.asarray(ours.dataobj), np.asarray(theirs.dataobj))
    np.testing.assert_array_equal(labels[0].numpy(), np.asarray(theirs.dataobj))
    np.testing.assert_array_equal(ours.affine, theirs.affine)


def test_voxels_with_their_grid_are_as_good_as_a_file(scans: list[Path], predictor: Predictor) -> None:
    image = nib.load(scans[0])
    from_file = predictor(scans[0])
    from_voxels = predictor(np.asarray(image.dataobj, np.float32)[None], image.affine)
    assert torch.equal(from_file.as_tensor(), from_voxels.as_tensor())
    np.testing.assert_allclose(from_voxels.affine, image.affine)


@pytest.mark.parametrize("way", ["turned", "big-endian", "big-endian numbers"])
def test_voxels_may_lie_in_memory_as_they_like(way: str, predictor: Predictor) -> None:
    voxels = (1000 * np.random.RandomState(0).rand(1, 30, 40, 30)).astype(np.int16)
    affine = np.diag([1.0, 1.2, 1.0, 1.0])
    other, other_affine = voxels, affine
    if way == "turned":
        other, other_affine = np.ascontiguousarray(voxels[:, ::-1])[:, ::-1], affine[::-1].copy()[::-1]
    elif way == "big-endian":
        other, other_affine = voxels.astype(">i2"), affine.astype(">f8")
    else:
        other = voxels.astype(">f4")
    expected, found = predictor.prepared(voxels, affine)["image"], predictor.prepared(other, other_affine)["image"]
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    assert torch.equal(found.affine, expected.affine)


def test_threads_do_not_disturb_each_other(scans: list[Path], predictor: Predictor) -> None:
    alone = [predictor(scan).as_tensor() for scan in scans]
    found: dict[int, torch.Tensor] = {}

    def segment(number: int) -> None:
        found[number] = predictor(scans[number]).as_tensor()

    threads = [threading.Thread(target=segment, args=(number,)) for number in range(len(scans))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[number], labels) for number, labels in enumerate(alone))


def test_the_largest_component_is_kept_where_the_config_says_so(scans: list[Path], predictor: Predictor) -> None:
    from scipy import ndimage

    cleaned = Predictor(BUNDLE, device="cpu", overrides={"keep_largest": [1, 2], "smallest_object_ml": 0.001})
    for scan in scans:
        labels = cleaned(scan)[0].numpy()
        for value in (1, 2):
            assert ndimage.label(labels == value, np.ones((3, 3, 3)))[1] == 1
        assert (labels != predictor(scan)[0].numpy()).mean() < 0.001


def test_an_ensemble_of_the_same_weights_is_the_network_itself(scans: list[Path], predictor: Predictor) -> None:
    folds = Predictor(BUNDLE, device="cpu", overrides={"ensemble": ["models/model.pt", "models/model.pt"]})
    assert torch.equal(folds(scans[0]).as_tensor(), predictor(scans[0]).as_tensor())


def test_an_ensemble_needs_no_weights_of_the_bundles_own(
    scans: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["predict", str(BUNDLE), str(scans[0]), str(tmp_path), "--checkpoint", str(tmp_path / "none.pt")]
    assert main([*command, "--ensemble", "[models/model.pt]"]) == 0
    assert main([*command, "--ensemble", "[models/none.pt]", "--overwrite"]) == 1
    assert "Error: models/none.pt, a file of ensemble, is missing" in capsys.readouterr().err


@pytest.mark.parametrize("empty", [[], "$[]", None])
def test_an_ensemble_that_comes_out_empty_is_the_bundles_own_network(
    empty: Any, scans: list[Path], predictor: Predictor
) -> None:
    found = Predictor(BUNDLE, device="cpu", overrides={"ensemble": empty})
    assert torch.equal(found(scans[0]).as_tensor(), predictor(scans[0]).as_tensor())


def test_one_file_where_a_list_is_wanted_is_refused() -> None:
    for wrong in ("models/model.pt", "$'models/model.pt'"):
        with pytest.raises(ConfigError, match="ensemble must be a list of files of weights"):
            Predictor(BUNDLE, device="cpu", overrides={"ensemble": wrong})


def test_an_override_of_saving_holds_for_one_scan(scans: list[Path], predictor: Predictor, tmp_path: Path) -> None:
    predictor.save(scans[0], tmp_path, output_format="nrrd")
    assert [path.suffix for path in tmp_path.iterdir()] == [".nrrd"]
    predictor.save(scans[1], tmp_path)
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".gz", ".nrrd"]


@pytest.mark.parametrize("key", ["overlap", "keep_largest", "labels", "bundle_root", "outputformat", "dicom::on_gaps"])
def test_an_override_that_saving_would_not_heed_is_refused(key: str, predictor: Predictor, tmp_path: Path) -> None:
    takes = "algorithm, output_format, segments"
    with pytest.raises(ConfigError, match=rf"^save takes no {key!r}: only {takes}; give others to Predictor"):
        predictor.save("none.nii.gz", tmp_path, **{key: 1})


def test_the_command_line_says_how_long_each_stage_took(
    scans: list[Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["-m", "unet_bundle.cli", "predict", str(BUNDLE), str(scans[0]), str(tmp_path)]
    subprocess.run([sys.executable, "-W", "ignore", *command], check=True)
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "seconds a stage: " in line]
    taken = json.loads(line.partition("seconds a stage: ")[2])
    assert list(taken) == ["read", "preprocess", "network", "resample", "write"]
    assert taken["network"] > taken["resample"] >= 0


def test_each_scan_has_one_line_of_its_seconds_whoever_calls_the_inferer(
    scans: list[Path], predictor: Predictor, caplog: pytest.LogCaptureFixture
) -> None:
    def lines() -> list[dict[str, float]]:
        return [json.loads(text.partition(": ")[2]) for text in caplog.messages if text.startswith("seconds a stage")]

    parser = ConfigParser()
    parser.read_config(str(BUNDLE / "configs" / "inference.json"))
    with caplog.at_level(logging.INFO):
        predictor(scans[0])
        assert [list(line) for line in lines()] == [["read", "preprocess", "network", "resample", "postprocess"]]
        inferer, prepare = (parser.get_parsed_content(name) for name in ("inferer", "preprocessing"))
        for scan in scans[:2]:  # as MONAI Label does, which has no evaluator
            inferer(prepare({"image": str(scan)})["image"][None], predictor.network)
    assert [list(line) for line in lines()[1:]] == [["read", "network", "resample"]] * 2


@pytest.mark.parametrize(
    ("wrong", "error", "named"),
    [
        ({"overrides": {"overlapp": 0.5}}, ConfigError, "unknown key 'overlapp'"),
        ({"overrides": {"overlap": 1.5}}, ConfigError, "overlap must be at least 0"),
        ({"overrides": {"fill_holes": [3]}}, ConfigError, "fill_holes names the class 3, but the bundle's are"),
        ({"overrides": {"checkpoint": "missing.pt"}}, CheckpointError, "missing.pt"),
    ],
)
def test_what_cannot_be_loaded_is_refused(wrong: dict[str, Any], error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        Predictor(BUNDLE, **wrong)


def test_no_bundle_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"inference\.json is missing: give the folder of a bundle"):
        Predictor(tmp_path)


def test_voxels_without_a_grid_are_refused(predictor: Predictor) -> None:
    with pytest.raises(InputError, match="voxels come without their grid: give affine"):
        predictor(np.zeros((1, 30, 40, 30), np.float32))


@pytest.mark.parametrize(
    ("affine", "reason"),
    [
        (np.diag([1000.0, 1, 1, 1]), "the array has a voxel size of 1000 x 1 x 1 mm"),
        (np.zeros((4, 4)), "the array has an affine that is not a 4x4 matrix ending in 0 0 0 1"),
        (np.eye(3), "the array has an affine that is not a 4x4 matrix ending in 0 0 0 1"),
    ],
)
def test_an_affine_that_cannot_be_a_scans_is_refused(predictor: Predictor, affine: Any, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        predictor(np.random.RandomState(0).rand(1, 30, 40, 30).astype(np.float32), affine)


def test_voxels_that_are_no_numbers_are_refused(predictor: Predictor) -> None:
    voxels = np.zeros((1, 30, 40, 30), np.float32)
    voxels[0, 1, 2, 3] = np.nan
    with pytest.raises(InputError, match="the array has 1 voxels that are NaN"):
        predictor(voxels, np.eye(4))


def test_a_path_that_leads_nowhere_is_named(predictor: Predictor, tmp_path: Path) -> None:
    for path in (tmp_path / "none", [tmp_path / "none"]):
        with pytest.raises(InputError, match=r"^none does not exist: check the path"):
            predictor(path)


def test_a_format_that_cannot_say_where_slices_lie_is_refused_before_the_network_runs(
    synthetic: Any, predictor: Predictor, tmp_path: Path
) -> None:
    pytest.importorskip("highdicom")
    sizes = {"shape": (40, 36, 30), "spacing": (1.0, 1.0, 1.0), "modality": "MR"}
    series = synthetic.write_series(tmp_path / "series", **sizes, skip=(4,))
    resampling = Predictor(BUNDLE, device="cpu", overrides={"dicom::on_gaps": "resample"})
    runs: list[int] = []
    resampling.network.register_forward_hook(lambda *_: runs.append(1))
    with pytest.raises(InputError, match="unequal slice distances"):
        resampling.save(series.folder, tmp_path / "out", output_format="nifti")
    assert not runs
    resampling.save(series.folder, tmp_path / "out", output_format="dicom-seg")
    assert runs
    with pytest.raises(InputError, match="set dicom::on_gaps to resample"):
        predictor(series.folder)


def test_a_folder_of_scans_is_refused_with_what_to_do(scans: list[Path], predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "DOE").mkdir()
    with pytest.raises(
        InputError, match=r"holds no DICOM series but no other scans: give .* `unet-bundle predict`"
    ) as found:
        predictor(tmp_path / "DOE")
    assert "DOE" not in str(found.value)
    with pytest.raises(InputError, match=r"holds no DICOM series but \d+ other scans: give the file of one scan"):
        predictor(scans[0].parent)


def test_what_lies_beside_a_series_without_the_mark_of_dicom_is_left_alone(
    synthetic: ModuleType, predictor: Predictor, tmp_path: Path
) -> None:
    series = synthetic.write_series(tmp_path / "series", shape=(20, 20, 6), modality="MR")
    for file in series.files:  # as old files are: no preamble, no group 0002
        dataset = pydicom.dcmread(file)
        pydicom.dcmwrite(file, pydicom.Dataset(dataset), implicit_vr=True, little_endian=True)
    expected = predictor.prepared(series.folder)["image"]
    (series.folder / "preview.png").write_bytes(b"\x89PNG\r\n")
    nib.save(nib.Nifti1Image(np.zeros((9, 9, 9), np.int16), np.eye(4)), series.folder / "copy.nii")
    found = predictor.prepared(series.folder)["image"]
    assert torch.equal(found.as_tensor(), expected.as_tensor())
    for file in series.files:
        file.write_bytes(b"\x08\x00" + bytes(4000))  # begins as old files do, and has no UID of DICOM's
    with pytest.raises(InputError, match="holds no DICOM series but 2 other scans"):
        predictor(series.folder)


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    for given in ({"device": device}, {"overrides": {"device": device}}):
        with pytest.raises(ConfigError, match=rf"^device is '{device}'"):
            Predictor(BUNDLE, **given)


def test_a_sheared_scan_is_refused_before_the_network_runs(predictor: Predictor) -> None:
    affine = np.diag([1.0, 1.2, 1.0, 1.0])
    affine[0, 1] = 0.12
    runs: list[int] = []
    hook = predictor.network.register_forward_hook(lambda *_: runs.append(1))
    with pytest.raises(
        InputError, match=r"the scan's axes are not perpendicular, by up to 5\.7 degrees, .* resample it"
    ):
        predictor(np.random.RandomState(0).rand(1, 30, 40, 30).astype(np.float32), affine)
    hook.remove()
    assert not runs


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ((np.zeros((30, 40, 30)), np.eye(4)), r"voxels have 30 channels, the model needs 1: .* voxels\[None\]"),
        ((np.zeros((1, 0, 3, 3)), np.eye(4)), r"voxels have the shape \(1, 0, 3, 3\): there are none"),
        ((np.zeros((1, 9, 9, 9), np.complex64), np.eye(4)), "give real numbers"),
        ((np.array([None]), np.eye(4)), "voxels are of type object: give real numbers"),
        ((np.zeros((1, 9, 9, 9)), "RAS"), "affine is no matrix of numbers"),
        (("scan.nii.gz", np.eye(4)), "affine goes with an array"),
        ((nib.Nifti1Image(np.zeros((9, 9, 9), np.int16), np.eye(4)),), "a scan is a path, .* not Nifti1Image"),
        (([],), "a scan is a path, a list of paths, or an array with its affine, not empty"),
        ((None,), "a scan is a path, .* not NoneType"),
    ],
)
def test_what_is_no_scan_is_refused_with_what_is(predictor: Predictor, given: tuple[Any, ...], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        predictor(*given)
