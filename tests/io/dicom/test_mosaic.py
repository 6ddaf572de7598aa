"""A mosaic whose private header is damaged is refused, never placed by a guess."""

import numpy as np
import pytest

from unet_bundle.errors import InputError
from unet_bundle.io.dicom import DicomSeriesReader


@pytest.mark.parametrize(
    ("tag", "value"),
    [
        *((b"SliceNormalVector", text) for text in (b"nan", b"none", b"2.5")),
        *((b"NumberOfImagesInMosaic", text) for text in (b"nan", b"x", b"0", b"-35", b"99999")),
    ],
)
def test_a_damaged_private_header_is_refused(shared_data, tmp_path, tag, value):
    folder = shared_data("dicom_series") / "mr_siemens_mosaic_axasc35"
    contents = min(path for path in folder.iterdir() if path.is_file()).read_bytes()
    stands = {b"SliceNormalVector": b"0.00000000", b"NumberOfImagesInMosaic": b"35      "}[tag]
    where = contents.index(stands, contents.index(tag + b"\0"))
    damaged = contents[:where] + value.ljust(len(stands)) + contents[where + len(stands) :]
    (tmp_path / "mosaic").write_bytes(damaged)
    reader = DicomSeriesReader()
    with pytest.raises(InputError, match="Siemens mosaic") as refused:
        reader.read(tmp_path / "mosaic")
    assert "\n" not in str(refused.value)


def test_one_value_says_mosaic_too(write):
    series = write(modality="MR", edit=lambda _index, dataset: setattr(dataset, "ImageType", "MOSAIC"))
    with pytest.raises(InputError, match="mosaic without a usable CSA header"):
        DicomSeriesReader().read(series.folder)


def test_a_mosaic_of_another_maker_is_refused_by_name(write):
    """United Imaging's flag for all slices in one picture: read as it stands, it would be one slice."""
    image_type = ["ORIGINAL", "PRIMARY", "EPI", "VFRAME"]
    series = write(modality="MR", shape=(12, 10, 1), edit=lambda _, dataset: setattr(dataset, "ImageType", image_type))
    with pytest.raises(InputError, match="a mosaic that is not read"):
        DicomSeriesReader().read(series.folder)


@pytest.mark.parametrize("slices", [1, 8])
def test_an_enhanced_object_that_says_mosaic_is_one_only_if_it_has_one_frame(synthetic, tmp_path, slices):
    """Newer Siemens scanners take mosaics apart and leave the word, but not those of navigators."""
    series, path = synthetic.write_multiframe(tmp_path, modality="MR", shape=(12, 10, slices))
    dataset = synthetic.pydicom.dcmread(path)
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"]
    synthetic.save(dataset, path)
    reader = DicomSeriesReader()
    if slices == 1:
        with pytest.raises(InputError, match="a mosaic that is not read"):
            reader.read(path)
    else:
        array, _ = reader.get_data(reader.read(path))
        np.testing.assert_array_equal(array, series.voxels.transpose(2, 1, 0) - 1000)
