"""`unet-bundle predict` on DICOM studies: every series that fits, and a line for each that does not."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unet_bundle.cli import main

pytest.importorskip("pydicom", minversion="3.0")
pytest.importorskip("highdicom")

SHAPE, SPACING = (40, 36, 10), (5.0, 5.0, 6.0)


@pytest.fixture
def study(synthetic: ModuleType, tmp_path: Path) -> Callable[..., list[Any]]:
    """A function that writes one series for each set of options into a folder named after the patient."""

    def write(*options: dict[str, Any]) -> list[Any]:
        return [
            synthetic.write_series(
                tmp_path / "PLANTED" / f"PLANTED_{number}",
                **{"shape": SHAPE, "spacing": SPACING, "series": number, **each},
            )
            for number, each in enumerate(options, 1)
        ]

    return write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def uid(number: int) -> str:
    return f"1.2.826.0.1.3680043.8.498.0.{number}.2"


def test_every_series_that_fits_is_segmented(
    bundle: Path, study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study({"modality": "MR"}, {"modality": "CT"}, {"modality": "MR", "lean": (0.0, 0.3)}, {"modality": "MR"})
    line = ["predict", str(bundle), str(tmp_path / "PLANTED"), str(tmp_path / "out")]
    assert main(line) == 1, "a series that fits the model is refused"
    captured = capsys.readouterr()
    assert "2 of 2 scans segmented" in captured.out
    reasons = [each for each in captured.out.splitlines() if each.startswith("  ")]
    assert len(reasons) == 2
    assert reasons[0].startswith("  left out: CT series 2")
    assert "is CT, the model needs MR" in reasons[0]
    assert reasons[1].startswith("  refused: MR series 3")
    assert "tilt of 16.7 degrees" in reasons[1]
    assert names(tmp_path / "out") == [f"{uid(1)}_seg.dcm", f"{uid(4)}_seg.dcm", "volumes.csv"]
    assert main(line) == 1
    assert "2 of 2 are already there and skipped" in capsys.readouterr().out
    assert main([*line, "--dicom::on_tilt", "resample"]) == 0
    assert "1 of 1 scans segmented" in capsys.readouterr().out
    assert names(tmp_path / "out")[1] == f"{uid(3)}_seg.dcm"


def test_an_archive_gives_the_same_as_the_folder(bundle: Path, study: Any, tmp_path: Path) -> None:
    written = study({"modality": "MR"}, {"modality": "MR"})
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for series in written:
            for path in series.files:
                archive.write(path, f"{series.folder.name}/{path.stem}")
    for source in ("PLANTED", "study.zip"):
        assert main(["predict", str(bundle), str(tmp_path / source), str(tmp_path / f"out_{source}")]) == 0
    made = [tmp_path / f"out_{source}" for source in ("PLANTED", "study.zip")]
    assert names(made[0]) == names(made[1]) == [f"{uid(1)}_seg.dcm", f"{uid(2)}_seg.dcm", "volumes.csv"]
    assert (made[0] / "volumes.csv").read_text() == (made[1] / "volumes.csv").read_text()


def test_a_study_without_a_series_that_fits(
    bundle: Path, study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study({"modality": "CT"}, {"modality": "PT"})
    assert main(["predict", str(bundle), str(tmp_path / "PLANTED"), str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert captured.out.count("left out: ") == 2
    assert (
        captured.err.rstrip().splitlines()[-1]
        == "Error: nothing that was given fits the bundle: the reasons stand above."
    )
    assert names(tmp_path / "out") == []


def test_a_single_series_of_another_modality(
    bundle: Path, study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (series,) = study({"modality": "CT"})
    for given in (series.folder, series.files[0]):
        assert main(["predict", str(bundle), str(given), str(tmp_path / "out")]) == 1
        last = capsys.readouterr().err.rstrip().splitlines()[-1]
        assert last.startswith("Error: CT series 1 (")
        assert "is CT, the model needs MR" in last


def test_a_damaged_slice_fails_its_series_only(
    bundle: Path, study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = study({"modality": "MR"}, {"modality": "MR"})
    path = written[0].files[3]
    path.write_bytes(path.read_bytes()[:-100])
    assert main(["predict", str(bundle), str(tmp_path / "PLANTED"), str(tmp_path / "out")]) == 1
    captured = capsys.readouterr()
    assert "1 of 2 scans segmented" in captured.out
    assert f"  refused: {uid(1)}: DICOM file " in captured.out
    assert names(tmp_path / "out") == [f"{uid(2)}_seg.dcm", "volumes.csv"]
    assert "PLANTED" not in captured.out.replace(str(tmp_path / "PLANTED"), "") + captured.err


def test_options_may_stand_anywhere(
    bundle: Path, study: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (series,) = study({"modality": "MR"})
    line = ["predict", str(bundle), "--dry-run", str(series.folder), "--overwrite", str(tmp_path / "out")]
    assert main(line) == 0
    assert "1 scans would be segmented" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--dicomweb", "http://joe:secret@127.0.0.1:1/x", "--study", "1.2"], "holds a login"),
        (["--dicomweb", "http://127.0.0.1:1/x?token=secret", "--study", "1.2"], "has parameters"),
        (["--dicomweb", "127.0.0.1:1/secret", "--study", "1.2"], "URL is none"),
        (["--dicomweb", "http://127.0.0.1:1/x"], "needs a study"),
        (["--dicomweb", "http://127.0.0.1:1/x", "--study", "secret"], "UID of the study is none"),
        (
            ["--dicomweb", "http://127.0.0.1:1/x", "--study", "1.2", "--store", "--output_format", "nrrd"],
            "--store is for",
        ),
        (["--study", "1.2"], "--study is for a PACS"),
    ],
)
def test_what_cannot_be_asked_of_a_pacs(
    words: list[str], says: str, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("dicomweb_client")
    assert main(["predict", str(bundle), str(tmp_path / "out"), *words]) == 2
    captured = capsys.readouterr()
    assert says in captured.err.rstrip().splitlines()[-1]
    assert "secret" not in captured.out + captured.err


def test_a_pacs_that_does_not_answer(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("dicomweb_client")
    line = ["predict", str(bundle), str(tmp_path / "out"), "--dicomweb", "http://127.0.0.1:1/x", "--study", "1.2"]
    assert main(line) == 1
    assert (
        capsys.readouterr()
        .err.rstrip()
        .endswith("Error: 127.0.0.1:1 does not answer: check the URL and whether the server runs")
    )
    assert names(tmp_path / "out") == []
