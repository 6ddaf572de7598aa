"""Which format a result has and what its file is called."""

import pytest

from unet_bundle.cli.predict import FORMATS as OFFERED
from unet_bundle.errors import ConfigError
from unet_bundle.io import FORMATS, SaveImaged, output_name
from unet_bundle.io.output_format import SUFFIXES, format_for

UID = "1.2.826.0.1.3680043.8.498.5"


@pytest.mark.parametrize(
    ("source", "dicom", "chosen"),
    [("a/scan.nii.gz", False, "nifti"), ("a/cells.png", False, "png"), (UID, True, "dicom-seg")],
)
def test_auto_follows_the_scan(source, dicom, chosen):
    assert format_for("auto", source, dicom=dicom) == chosen


def test_names_tell_the_formats_apart():
    assert output_name("a/liver_004.nii") == "liver_004_seg.nii.gz"
    assert output_name("a/liver_004.nii", output_format="seg.nrrd") == "liver_004_seg.seg.nrrd"
    assert output_name(UID, dicom=True) == f"{UID}_seg.dcm"
    names = {output_name(UID, output_format=each, dicom=True) for each in SUFFIXES}
    assert len(names) == len(SUFFIXES)


@pytest.mark.parametrize("output_format", ["dicom-seg", "dicom-seg-labelmap", "rtstruct"])
def test_dicom_is_made_of_dicom_only(output_format):
    with pytest.raises(ConfigError, match=r"is for DICOM series only, liver.nii is none: use 'nifti'"):
        output_name("folder/liver.nii", output_format=output_format)


def test_pictures_give_pictures():
    with pytest.raises(ConfigError, match="results of pictures are PNG"):
        output_name("cells.tif", output_format="nifti")


def test_a_format_nobody_knows_is_refused_at_once(tmp_path):
    with pytest.raises(ConfigError, match="output_format is 'mha': it must be one of auto, nifti, nrrd"):
        SaveImaged(keys="pred", output_dir=tmp_path, output_format="mha")


def test_the_command_line_offers_what_there_is():
    assert OFFERED == FORMATS
