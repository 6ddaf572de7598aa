"""`unet-bundle predict` on a study again: a result counts as done if it was made of the very same slices."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from unet_bundle.cli import main

pytest.importorskip("pydicom", minversion="3.0")
pytest.importorskip("highdicom")
pytest.importorskip("contourpy")

SIZES: dict[str, Any] = {"shape": (40, 36, 10), "spacing": (5.0, 5.0, 6.0), "modality": "MR"}
FORMATS = ("nifti", "nrrd", "seg.nrrd", "dicom-seg", "dicom-seg-labelmap", "dicom-seg-fractional", "rtstruct")


@pytest.fixture
def predict(bundle: Path, tmp_path: Path) -> Callable[..., int]:
    """A function that runs the command on a path, results going to ``out``."""
    return lambda source, *words: main(["predict", str(bundle), str(source), str(tmp_path / "out"), *words])


@pytest.mark.parametrize("output_format", FORMATS)
def test_the_result_of_one_slice_is_not_that_of_the_series(
    output_format: str, predict: Any, synthetic: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = synthetic.write_series(tmp_path / "study", **SIZES)
    assert predict(series.files[4], "--format", output_format) == 0
    assert "is a single slice" in capsys.readouterr().err
    (result,) = (path for path in (tmp_path / "out").iterdir() if path.suffix != ".csv")
    of_one = result.read_bytes()
    assert predict(series.folder, "--format", output_format) == 0
    said = capsys.readouterr().out
    assert f"{result.name} is of other slices than the series has: it is made again." in said
    assert "already there" not in said
    assert result.read_bytes() != of_one
    assert predict(series.folder, "--format", output_format) == 0
    said = capsys.readouterr().out
    assert "1 of 1 are already there and skipped" in said
    assert "of 0 scans" not in said
    assert "has no volumes" not in said


def test_the_result_of_another_volume_of_the_series_is_made_again(
    predict: Any, synthetic: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def echo(time: float) -> Callable[[int, Any], None]:
        return lambda _index, dataset: setattr(dataset, "EchoTime", time)

    first = synthetic.write_series(tmp_path / "study" / "a", **SIZES, edit=echo(10))

    def second(index: int, dataset: Any) -> None:
        dataset.EchoTime = 20
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{index}"

    synthetic.write_series(tmp_path / "study" / "b", **SIZES, edit=second)
    assert predict(first.folder.parent, "--dicom::volume", "1") == 0
    assert predict(first.folder.parent, "--dicom::volume", "2") == 0
    assert "it is made again" in capsys.readouterr().out


def test_a_series_from_a_pacs_is_fetched_where_its_result_is_of_one_slice(
    bundle: Path, synthetic: Any, dicomweb_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import pydicom

    series = synthetic.write_series(tmp_path / "study", **SIZES)
    uid = dicomweb_server.hold(series.files)
    out = str(tmp_path / "out")
    study = str(pydicom.dcmread(series.files[0]).StudyInstanceUID)
    assert main(["predict", str(bundle), str(series.files[4]), out]) == 0
    line = ["predict", str(bundle), out, "--dicomweb", dicomweb_server.url, "--study", study, "--store"]
    assert main(line) == 0
    assert "it is made again" in capsys.readouterr().out
    assert dicomweb_server.fetched() == [uid]
    (stored,) = dicomweb_server.stored
    assert len(stored.SourceImageSequence) == 10


def test_slice_distances_that_a_format_cannot_say_are_refused_before_the_network_runs(
    predict: Any, synthetic: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = synthetic.write_series(tmp_path / "study", **SIZES, skip=(4,))
    assert predict(series.folder, "--dicom::on_gaps", "resample", "--format", "nifti") == 1
    captured = capsys.readouterr()
    assert "unequal slice distances" in captured.out
    assert "windows" not in captured.err
    assert not (tmp_path / "out" / "volumes.csv").exists()


@pytest.mark.parametrize("number", [1, 2])
def test_other_images_in_a_study(
    number: int, predict: Any, synthetic: Any, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = synthetic.write_series(tmp_path / "study" / "deep", **SIZES)
    scan = next(scans.glob("*.nii.gz"))
    for each in range(number):
        shutil.copy(scan, tmp_path / "study" / f"PLANTED_{each}.nii.gz")
    (tmp_path / "study" / "PLANTED.png").write_bytes(b"no matter what")
    status = predict(tmp_path / "study", "--dry-run")
    captured = capsys.readouterr()
    inspected = main(["inspect", str(tmp_path / "study")])
    seen = capsys.readouterr().out
    if number == 1:
        assert status == 0
        assert "1 scans would be segmented" in captured.out
        assert "left out: 2 other images (.nii.gz, .png) directly in the folder" in captured.out
        assert inspected == 0
        assert re.search(r"PLANTED_0\.nii\.gz .* left out", seen)
        assert "1 of 2 can be read." in seen
    else:
        assert status == 1
        last = captured.err.rstrip().splitlines()[-1]
        assert last.startswith("Error: the folder holds 1 DICOM series and 2 other scans")
        assert "predict takes neither" in seen
    assert "PLANTED" not in captured.out.replace(str(tmp_path / "study"), "") + captured.err
    assert predict(tmp_path / "study", "--dry-run", "--dicom::series_uid", "0.2") == 0, "a person has said which"
    assert predict(series.folder, "--dry-run") == 0


@pytest.mark.parametrize("is_marked", [True, False])
def test_a_picture_hides_no_series(
    is_marked: bool, predict: Any, synthetic: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = synthetic.write_series(tmp_path / "study", **SIZES)
    if not is_marked:
        for number, file in enumerate(series.files):
            (series.folder / f"IM{number}").write_bytes(file.read_bytes()[132:])  # as old archives store them
            file.unlink()
    (series.folder / "photo.png").write_bytes(b"no matter what")
    assert predict(series.folder) == 0
    assert "1 of 1 scans segmented" in capsys.readouterr().out


def test_scans_beside_dicom_objects_that_are_no_scans_stay_scans(
    predict: Any, synthetic: Any, scans: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthetic.write_series(scans / "results", **SIZES, edit=lambda _, each: setattr(each, "Modality", "SEG"))
    assert predict(scans, "--dry-run") == 0
    assert "2 scans would be segmented" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--dicom::on_gap", "resample"), "unknown DICOM option 'on_gap': did you mean 'on_gaps'?"),
        (("--dicom::nosuch", "1"), "unknown DICOM option 'nosuch': there are "),
    ],
)
def test_a_misspelt_option_is_said_in_a_line(
    words: tuple[str, str], says: str, predict: Any, synthetic: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = synthetic.write_series(tmp_path / "study", **SIZES)
    assert predict(series.folder, *words) == 2
    assert capsys.readouterr().err.rstrip().splitlines()[-1].startswith(f"Error: {says}")


@pytest.mark.parametrize("typed", ["409060423022", "'409060423022'", "060423022", "1.10", "'1.10'"])
def test_the_ending_of_a_uid_is_taken_as_it_is_typed(
    typed: str, predict: Any, synthetic: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ending = typed.strip("'")
    uids = {1: f"1.2.{ending}" if ending[0] != "0" else f"1.2.409{ending}", 2: "1.2.77"}
    for number, uid in uids.items():
        synthetic.write_series(
            tmp_path / "study" / str(number),
            **SIZES,
            series=number,
            edit=lambda _, each, uid=uid: setattr(each, "SeriesInstanceUID", uid),
        )
    assert predict(tmp_path / "study", "--dry-run", "--dicom::series_uid", typed) == 0
    assert "1 scans would be segmented" in capsys.readouterr().out


def test_an_output_that_cannot_be_written_is_refused_first(
    bundle: Path, synthetic: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series = synthetic.write_series(tmp_path / "study", **SIZES)
    for folder in ("/proc/none", "/proc"):
        if Path("/proc").is_dir():
            assert main(["predict", str(bundle), str(series.folder), folder]) == 2
            captured = capsys.readouterr()
            assert captured.err.rstrip().splitlines()[-1].startswith(f"Error: {folder} cannot be ")
            assert "refused" not in captured.out


def test_the_hint_of_inspect_works_when_it_is_pasted(
    predict: Any, synthetic: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def edit(offset: int) -> Callable[[int, Any], None]:
        def change(index: int, dataset: Any) -> None:
            dataset.SeriesInstanceUID, dataset.EchoTime = "1.2.4.0409060423022", 10 + offset
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.{offset}.{index}"

        return change

    for number in (1, 2):
        synthetic.write_series(tmp_path / "study" / str(number), **SIZES, edit=edit(number))
    synthetic.write_series(tmp_path / "study" / "3", **SIZES, series=3)
    main(["inspect", str(tmp_path / "study")])
    hints = re.findall(r"--dicom::series_uid .*", capsys.readouterr().out)
    assert len(hints) == 2
    for hint in hints:
        assert predict(tmp_path / "study", *shlex.split(hint), "--dry-run") == 0
        said = capsys.readouterr().out
        assert "1 scans would be segmented" in said
        assert "left out: 10 objects are of series that were not asked for" in said


def test_the_line_of_monai_keeps_digits_text(predict: Any, synthetic: Any, tmp_path: Path, capsys: Any) -> None:
    import fire

    series = synthetic.write_series(tmp_path / "study", **SIZES)
    predict(series.folder, "--dicom::series_uid", "0.2", "--dry-run")
    words = shlex.split(re.search(r"MONAI: (.*)", capsys.readouterr().out)[1])
    typed = words[words.index("--dicom::series_uid") + 1]
    assert fire.Fire(lambda value: value, [typed]) == "0.2"
