"""DICOM studies by the plain MONAI CLI: series of the bundle's modality, and one line where none fits."""

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("pydicom", minversion="3.0")
pytestmark = pytest.mark.integration

SIZE: dict[str, Any] = {"shape": (40, 36, 10), "spacing": (5.0, 5.0, 6.0)}
UID = "1.2.826.0.1.3680043.8.498.0"


def run(cli: Any, bundle: Path, study: Path, *overrides: str) -> Any:
    places = ("--dataset_dir", study, "--output_dir", cli.folder / "out")
    return cli.monai_run(bundle, ["inference.json"], *places, *overrides)


def test_another_modality_than_the_models_is_refused(
    cli: Any, bundle: Path, synthetic: ModuleType, tmp_path: Path
) -> None:
    synthetic.write_series(tmp_path / "PLANTED", modality="CT", series=3, **SIZE)
    result = run(cli, bundle, tmp_path / "PLANTED")
    result.refused("CT series 3 (....8.498.0.3.2) is CT, the model needs MR: give a series of that modality")
    assert "PLANTED" not in result.last_line
    assert not (tmp_path / "out").exists()


def test_the_series_that_fit_are_segmented(cli: Any, bundle: Path, synthetic: ModuleType, tmp_path: Path) -> None:
    synthetic.write_series(tmp_path / "study" / "a", modality="CT", series=1, **SIZE)
    synthetic.write_series(tmp_path / "study" / "b", modality="MR", series=2, **SIZE)
    synthetic.write_series(tmp_path / "study" / "c", modality="MR", series=3, lean=(0.0, 0.3), **SIZE)
    result = run(cli, bundle, tmp_path / "study").succeeded()
    assert "is CT, the model needs MR" in result.text
    assert "has a gantry tilt" in result.text
    assert cli.files(tmp_path / "out") == [f"{UID}.2.2_seg.dcm", "volumes.csv"]

    run(cli, bundle, tmp_path / "study", "--dicom::on_tilt", "resample").succeeded()
    assert cli.files(tmp_path / "out") == [f"{UID}.2.2_seg.dcm", f"{UID}.3.2_seg.dcm", "volumes.csv"]
