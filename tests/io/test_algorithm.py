"""What results say of the algorithm that made them, read again to tell whose they are."""

import pydicom
import pytest

from unet_bundle.io import SaveImaged
from unet_bundle.io.algorithm import Algorithm

pytest.importorskip("highdicom")
pytest.importorskip("contourpy")

FORMATS = ["dicom-seg", "dicom-seg-labelmap", "dicom-seg-fractional", "rtstruct"]


def test_what_states_nothing_is_this_package():
    for stated in (None, {}, {"name": "", "version": None}):
        assert Algorithm.of(stated).name == "unet-bundle"
        assert Algorithm.of(stated).version


def test_what_is_no_result_was_made_by_nobody(segmented, tmp_path):
    series, _ = segmented()
    (tmp_path / "text.dcm").write_text("no DICOM")
    for path in (series.files[0], tmp_path / "text.dcm", tmp_path / "missing.dcm", tmp_path):
        assert not Algorithm.of(None).made(path)


@pytest.mark.parametrize("output_format", FORMATS)
def test_names_that_dicom_cannot_hold_are_written_as_it_can(segmented, tmp_path, output_format):
    _, labels = segmented()
    terms = {"a\\b\nc " + 80 * "x": {"value": 1}, "absent": {"value": 2}, "Gefäß": {"value": 3}}
    algorithm = {"name": "By \\ me", "version": "1\\2"}
    save = SaveImaged(
        keys="pred", output_dir=tmp_path / "out", output_format=output_format, segments=terms, algorithm=algorithm
    )
    save({"pred": labels})
    (path,) = (tmp_path / "out").iterdir()
    dataset = pydicom.dcmread(path)
    described = dataset.get("SegmentSequence") or dataset.StructureSetROISequence
    names = [each.get("SegmentLabel") or each.get("ROIName") for each in described if each.get("SegmentNumber") != 0]
    assert names == [f"a/b c {58 * 'x'}", "absent", "Gefäß"]
    assert Algorithm.of(algorithm).made(path)
    assert not Algorithm.of({**algorithm, "version": "1/3"}).made(path)
