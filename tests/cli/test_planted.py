"""Names, ids and birth dates planted in headers, file and folder names stay out of all that is said and written."""

import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unet_bundle.cli import main

pytest.importorskip("pydicom", minversion="3.0")
pytest.importorskip("highdicom")

WORD = "PLANTED"
DATE = "19010203"
FORMATS = ("dicom-seg", "nifti", "nrrd", "seg.nrrd")


@contextmanager
def _writing_quietly() -> Iterator[None]:
    """pydicom warns of the values that the test itself writes."""
    import pydicom

    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def _planted(_index: int, dataset: Any) -> None:
    """More elements that name a person."""
    dataset.PatientBirthDate = DATE
    dataset.StudyDescription = dataset.ProtocolName = dataset.AccessionNumber = f"{WORD} 1"
    dataset.ReferringPhysicianName = dataset.OperatorsName = dataset.InstitutionName = f"{WORD}^2"
    dataset.StudyID, dataset.PatientComments = f"{WORD}-3", f"{WORD} 4"


@pytest.fixture
def study(synthetic: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function that writes a series into ``study/PLANTED_.../``, its files named after the patient too."""
    monkeypatch.chdir(tmp_path)

    def write(number: int, **options: Any) -> Any:
        base: dict[str, Any] = {"shape": (40, 36, 10), "spacing": (5.0, 5.0, 6.0), "modality": "MR", "edit": _planted}
        folder = tmp_path / "study" / f"{WORD}_{DATE}_{number}"
        with _writing_quietly():
            series = synthetic.write_series(folder, series=number, **{**base, **options})
        series.files = [path.rename(path.with_name(f"{WORD}_{DATE}_{path.name}")) for path in series.files]
        return series

    return write


@pytest.fixture
def silent(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> Callable[[], str]:
    """A function that gives all that was said since the last time, once it has none of the planted words."""

    # What unet_bundle.io.dicom.headers sets for a process; pytest takes it back before each test.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")

    def said() -> str:
        captured = capfd.readouterr()
        text = "\n".join([captured.out, captured.err, caplog.text, *(str(each.message) for each in recwarn)])
        for word in (WORD, DATE):
            assert word not in text, [line for line in text.splitlines() if word in line]
        caplog.clear()
        recwarn.clear()
        return text

    return said


def check_files(folder: Path) -> None:
    """No name of a file, and no content but that of DICOM, where the standard demands the patient."""
    for path in folder.rglob("*"):
        assert WORD not in path.name
        assert DATE not in path.name
        if path.is_file() and path.suffix != ".dcm":
            contents = path.read_bytes()
            assert WORD.encode() not in contents
            assert DATE.encode() not in contents


@pytest.mark.parametrize("format_", FORMATS)
def test_good_series(bundle: Path, study: Any, silent: Any, tmp_path: Path, format_: str) -> None:
    study(1)
    assert main(["inspect", "study"]) == 0
    assert main(["predict", str(bundle), "study", "out", "--format", format_]) == 0
    assert "1 of 1 scans segmented" in silent()
    check_files(tmp_path / "out")


@pytest.mark.parametrize("format_", FORMATS)
def test_values_that_libraries_warn_of(bundle: Path, study: Any, silent: Any, tmp_path: Path, format_: str) -> None:
    def broken(index: int, dataset: Any) -> None:
        _planted(index, dataset)
        dataset.PatientSex, dataset.PatientAge = f"{WORD}: too long and no code!", WORD
        dataset.PatientName = f"{WORD}=^=^={WORD}\\{WORD}"
        dataset.StudyDate = dataset.StudyTime = WORD

    study(1, edit=broken)
    assert main(["inspect", "study"]) == 0
    main(["predict", str(bundle), "study", "out", "--format", format_])
    silent()
    check_files(tmp_path / "out")


def test_the_patient_stands_in_a_dicom_result(bundle: Path, study: Any, silent: Any, tmp_path: Path) -> None:
    import pydicom

    study(1)
    assert main(["predict", str(bundle), "study", "out"]) == 0
    silent()
    (path,) = (tmp_path / "out").glob("*.dcm")
    assert str(pydicom.dcmread(path).PatientName) == "PLANTED^NAME"


def test_series_that_are_refused(bundle: Path, study: Any, silent: Any, tmp_path: Path) -> None:
    study(1, modality="CT")
    study(2, lean=(0.0, 0.3))
    study(3, skip=(2, 5))
    study(4, depths=[0, 6, 12, 18, 25, 30, 36, 42, 48, 54])
    study(5)
    copy = study(6).files[0]
    copy.with_name(f"{WORD}_copy").write_bytes(copy.read_bytes())
    damaged = study(7).files[3]
    damaged.write_bytes(damaged.read_bytes()[:-500])
    assert main(["inspect", "study"]) == 1
    assert main(["inspect", "study", "--json"]) == 1
    assert main(["predict", str(bundle), "study", "out"]) == 1
    text = silent()
    assert "2 of 3 scans segmented" in text
    assert text.count("  left out: ") == 1
    assert text.count("  refused: ") == 4
    check_files(tmp_path / "out")


@pytest.mark.parametrize("damage", ["header", "archive", "empty", "wrong class", "swapped"])
def test_input_that_cannot_be_read_at_all(bundle: Path, study: Any, silent: Any, tmp_path: Path, damage: str) -> None:
    series, source = study(1), tmp_path / "study"
    path: Path = series.files[2]
    if damage == "header":
        path.write_bytes(path.read_bytes()[:400])
    elif damage == "archive":
        source = tmp_path / "study.zip"
        with zipfile.ZipFile(source, "w") as archive:
            for each in series.files:
                archive.write(each, f"{WORD}/{each.name}")
        contents = bytearray(source.read_bytes())
        contents[-len(contents) // 3 :] = b""
        source.write_bytes(contents)
    elif damage == "empty":
        for each in series.files:
            each.write_bytes(b"")
    elif damage == "swapped":  # an element that is shown holds what names the patient
        import pydicom

        with _writing_quietly():
            for each in series.files:
                dataset = pydicom.dcmread(each)
                dataset.Modality = dataset.SeriesInstanceUID = WORD
                dataset.save_as(each)
    else:
        path.write_bytes(path.read_bytes().replace(b"1.2.840.10008.5.1.4.1.1.4", b"PLANTED.10008.5.1.4.1.1.4"[:25]))
    inspected, predicted = (
        main(["inspect", str(source)]),
        main(["predict", str(bundle), str(source), "out"]),
    )
    text = silent()
    if damage != "wrong class":
        assert (inspected, predicted) == (1, 1)
        assert "Traceback" not in text
    check_files(tmp_path / "out")
