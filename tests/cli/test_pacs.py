"""`unet-bundle predict --dicomweb`: what is asked of the server, fetched from it and stored there."""

import gc
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pydicom
import pytest

from unet_bundle.cli import main, pacs
from unet_bundle.networks import UNet

pytest.importorskip("highdicom")
pytest.importorskip("contourpy")

STUDY = "1.2.826.0.1.3680043.8.498.1"


@pytest.fixture
def held(synthetic: ModuleType, dicomweb_server: Any, tmp_path: Path) -> Callable[..., str]:
    """A function that gives the server a small series of the study and says its UID."""

    def hold(number: int, modality: str = "MR", **options: Any) -> str:
        sizes = {"shape": (40, 36, 10), "spacing": (5.0, 5.0, 6.0)}
        series = synthetic.write_series(
            tmp_path / "sent" / str(number), modality=modality, series=number, **{**sizes, **options}
        )
        return str(dicomweb_server.hold(series.files))

    return hold


@pytest.fixture
def predict(bundle: Path, dicomweb_server: Any, tmp_path: Path) -> Callable[..., int]:
    """A function that runs the command on the study."""

    def run(*words: str) -> int:
        line = ["predict", str(bundle), str(tmp_path / "out"), "--dicomweb", dicomweb_server.url, "--study", STUDY]
        return main([*line, *words])

    return run


def stored(server: Any) -> list[tuple[str, str]]:
    """Modality and source series of what was stored."""
    found = []
    for each in server.stored:
        if each.Modality == "SEG":
            found.append(("SEG", str(each.ReferencedSeriesSequence[0].SeriesInstanceUID)))
        else:
            study = each.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
            found.append((each.Modality, str(study.RTReferencedSeriesSequence[0].SeriesInstanceUID)))
    return sorted(found)


def test_the_results_of_this_run_are_stored_and_nothing_else(
    predict: Any, held: Any, dicomweb_server: Any, tmp_path: Path
) -> None:
    first = held(1)
    assert predict("--format", "rtstruct") == 0
    assert predict("--format", "dicom-seg-fractional") == 0
    assert predict("--format", "nifti") == 0
    (tmp_path / "out" / f"{first}_mine.dcm").write_bytes(b"mine")
    second = held(2)
    assert predict("--store") == 0
    assert stored(dicomweb_server) == [("SEG", first), ("SEG", second)]
    assert {each.SegmentationType for each in dicomweb_server.stored} == {"BINARY"}


@pytest.mark.parametrize("more", [[], ["--ensemble", "[models/model.pt]"]])
def test_no_model_is_held_while_scans_are_fetched(
    more: list[str], predict: Any, held: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def networks() -> int:
        return sum(type(each) is UNet for each in gc.get_objects())

    before, during, fetched = networks(), [], pacs.fetched

    def noting(*arguments: Any) -> Any:
        during.append(networks() - before)
        return fetched(*arguments)

    monkeypatch.setattr(pacs, "fetched", noting)
    held(1)
    assert predict(*more) == 0
    assert during == [0]


def test_what_is_there_is_stored_without_fetching_it_again(
    predict: Any, held: Any, dicomweb_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    uid = held(1)
    assert predict("--format", "rtstruct") == 0
    dicomweb_server.asked.clear()
    assert predict("--format", "rtstruct", "--store") == 0
    assert "1 of 1 are already there and skipped" in capsys.readouterr().out
    assert dicomweb_server.fetched() == []
    assert stored(dicomweb_server) == [("RTSTRUCT", uid)]


@pytest.mark.parametrize("output_format", ["dicom-seg", "dicom-seg-labelmap", "rtstruct"])
def test_a_result_of_another_version_is_not_stored_as_this_ones(
    output_format: str,
    predict: Any,
    held: Any,
    dicomweb_server: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    uid = held(1)
    assert predict("--format", output_format, "--algorithm::version", "'0.9'") == 0
    (result,) = (tmp_path / "out").glob("*.dcm")
    before = result.read_bytes()
    held(2)
    dicomweb_server.asked.clear()
    assert predict("--format", output_format, "--store") == 2
    error = capsys.readouterr().err.rstrip().splitlines()[-1]
    assert error.startswith(f"Error: {uid}_seg.")
    assert error.endswith("give another OUTPUT, or --overwrite to make it again.")
    assert result.read_bytes() == before
    assert dicomweb_server.fetched() == [], "said before the work begins"
    assert stored(dicomweb_server) == []
    assert predict("--format", output_format, "--store", "--overwrite") == 0
    assert len(stored(dicomweb_server)) == 2


def test_a_file_that_is_no_result_is_not_stored(
    predict: Any, held: Any, dicomweb_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{held(1)}_seg.dcm").write_bytes(b"no DICOM")
    assert predict("--store") == 2
    assert "is no result of" in capsys.readouterr().err
    assert not dicomweb_server.stored


def test_a_dry_run_asks_what_there_is_and_fetches_nothing(
    predict: Any, held: Any, dicomweb_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    uid = held(1)
    assert predict() == 0
    held(2)
    held(3, "CT")
    dicomweb_server.asked.clear()
    capsys.readouterr()
    before = sorted((tmp_path / "out").iterdir())
    assert predict("--dry-run", "--store") == 0
    said = capsys.readouterr().out
    assert "1 of 2 are already there and skipped" in said
    assert "1 series would be fetched from 127.0.0.1" in said
    assert "MR series 2 (....8.498.0.2.2), 10 files" in said
    assert "The results would be stored" in said
    assert "left out: CT series 3" in said
    asked = f"GET /dicom-web/studies/{STUDY}/series"
    assert list(dicomweb_server.asked) == [asked, f"{asked}/{uid}/instances"]
    assert sorted((tmp_path / "out").iterdir()) == before
    assert predict("--dry-run", "--overlapp", "0.1") == 2


def test_a_series_that_does_not_fit_keeps_no_other_from_being_stored(
    predict: Any, held: Any, dicomweb_server: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    uid = held(1)
    assert predict() == 0
    held(2, lean=(0.0, 0.3))
    assert predict("--store") == 1, "a series that fits the model was refused"
    assert "gantry tilt" in capsys.readouterr().out
    assert stored(dicomweb_server) == [("SEG", uid)]


def test_files_of_another_series_are_refused(
    predict: Any, held: Any, dicomweb_server: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = held(1), held(2)
    dicomweb_server.files[second] = dicomweb_server.files[first]
    assert predict("--store") == 1
    assert "sent a file of another series" in capsys.readouterr().err.rstrip().splitlines()[-1]
    assert not dicomweb_server.stored
    assert not list((tmp_path / "out").glob("*.dcm"))


def test_what_is_stored_is_the_file_that_was_written(
    predict: Any, held: Any, dicomweb_server: Any, tmp_path: Path
) -> None:
    held(1)
    assert predict("--store") == 0
    (path,) = (tmp_path / "out").glob("*.dcm")
    assert dicomweb_server.stored == [pydicom.dcmread(path)]
