"""What the app's operators do: every series that fits gets its DICOM SEG, and what is refused is said at the end."""

import logging
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser

from unet_bundle.deploy.segmentation import find_series, segment_all
from unet_bundle.errors import ConfigError, InputError
from unet_bundle.predictor import Predictor

SIZE: dict[str, Any] = {"shape": (40, 36, 10), "spacing": (5.0, 5.0, 6.0)}


@pytest.fixture
def bundle(tiny_bundle: Path) -> Path:
    parser = ConfigParser()
    parser.read_config(str(tiny_bundle / "configs" / "inference.json"))
    torch.manual_seed(0)
    torch.save(parser.get_parsed_content("network_def").state_dict(), tiny_bundle / "models" / "model.pt")
    return tiny_bundle


def test_every_series_that_fits_gets_a_seg_that_refers_to_it(
    bundle: Path, synthetic: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import pydicom

    synthetic.write_series(tmp_path / "study" / "a", modality="CT", series=1, **SIZE)
    synthetic.write_series(tmp_path / "study" / "b", modality="MR", series=2, **SIZE)
    with caplog.at_level(logging.INFO):
        work = find_series(bundle, tmp_path / "study")
    assert "is CT, the model needs MR" in caplog.text
    (made,) = segment_all(Predictor(bundle), work, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [made.name]
    seg = pydicom.dcmread(made)
    assert seg.Modality == "SEG"
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == work.items[0]["series"]
    assert "PatientName" not in caplog.text


def test_a_refused_series_is_said_when_the_others_are_done(bundle: Path, synthetic: ModuleType, tmp_path: Path) -> None:
    synthetic.write_series(tmp_path / "study" / "b", modality="MR", series=2, **SIZE)
    synthetic.write_series(tmp_path / "study" / "c", modality="MR", series=3, lean=(0.0, 0.3), **SIZE)
    work = find_series(bundle, tmp_path / "study")
    with pytest.raises(InputError, match=r"^1 series refused, 1 segmented: .*gantry tilt"):
        segment_all(Predictor(bundle), work, tmp_path / "out")
    assert len(list((tmp_path / "out").glob("*_seg.dcm"))) == 1


def test_no_study_and_no_bundle_are_refused(bundle: Path, synthetic: ModuleType, tmp_path: Path) -> None:
    assert synthetic is not None  # DICOM can be read here
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no DICOM study"):
        find_series(bundle, tmp_path / "empty")
    with pytest.raises(ConfigError, match="give the folder of a bundle as the model"):
        find_series(tmp_path / "empty", tmp_path / "empty")
