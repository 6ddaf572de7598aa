"""Stored bits become the values that they stand for."""

import numpy as np
import pytest
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGLSLossless,
    RLELossless,
)

from unet_bundle.errors import InputError
from unet_bundle.io.dicom import DicomSeriesReader

SAME_PICTURE = (*("MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_jp2klossless.dcm"),)


def read(path, **options):
    reader = DicomSeriesReader(**options)
    return reader.get_data(reader.read(path))


@pytest.mark.parametrize(
    "syntax",
    [
        *(ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
        *(RLELossless, JPEGLSLossless),
    ],
    ids=lambda syntax: syntax.keyword,
)
@pytest.mark.parametrize(("signed", "bits"), [(True, 16), (True, 12), (False, 12)])
def test_every_transfer_syntax_gives_the_same_voxels(write, syntax, signed, bits):
    series = write(shape=(12, 10, 2), syntax=syntax, signed=signed, bits=bits)
    array, _ = read(series.folder)
    assert array.dtype == np.int16
    np.testing.assert_array_equal(array, series.voxels.transpose(2, 1, 0))


def test_real_pictures_in_several_syntaxes_are_the_same(shared_data):
    siemens = shared_data("dicom_series") / "mr_siemens_transfer_syntaxes"
    pictures = [read(siemens / f"{number}.dcm")[0] for number in range(1, 7)]
    small = [read(shared_data("dicom_objects") / "pydicom" / name)[0] for name in SAME_PICTURE]
    for same in (pictures, small):
        for picture in same[1:]:
            np.testing.assert_array_equal(picture, same[0])


def test_every_slice_of_a_pet_has_its_own_scale(write):
    def scale(index, dataset):
        dataset.RescaleSlope = str(0.5 + index)

    series = write(modality="PT", edit=scale)
    array, _ = read(series.folder)
    expected = series.voxels * (0.5 + np.arange(8))[:, None, None]
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, expected.transpose(2, 1, 0).astype(np.float32))


@pytest.mark.parametrize(
    ("signed", "intercept", "dtype"),
    [(True, "-1024", np.int16), (True, "-32000", np.int32), (False, "32000", np.int32), (True, "0.5", np.float32)],
)
def test_values_that_do_not_fit_sixteen_bits_get_a_wider_type(write, signed, intercept, dtype):
    series = write(signed=signed, edit=lambda _, dataset: setattr(dataset, "RescaleIntercept", intercept))
    array, _ = read(series.folder)
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, series.voxels.transpose(2, 1, 0) + np.float64(intercept))


def test_overlays_in_the_unused_bits_are_no_voxels(write, synthetic):
    def overlay(_index, dataset):
        stored = np.frombuffer(dataset.PixelData, "<u2").reshape(10, 12) | np.uint16(0x8000)
        synthetic.set_pixels(dataset, stored)

    series = write(signed=False, bits=12, edit=overlay)
    np.testing.assert_array_equal(read(series.folder)[0], series.voxels.transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("element", "value", "words"),
    [
        ("SamplesPerPixel", 3, "colour image"),
        ("PhotometricInterpretation", "PALETTE COLOR", "colour image"),
        ("PhotometricInterpretation", "", "PhotometricInterpretation"),
        ("RescaleSlope", None, "no usable RescaleSlope"),
        ("RescaleSlope", "0", "no usable RescaleSlope"),
        ("RescaleType", "OD", "no Hounsfield units"),
        ("Rows", 11, "its pixels are not those of its header"),
        ("BitsAllocated", 8, "BitsStored"),
        ("HighBit", 11, "unusual layout of bits"),
        ("ImagePositionPatient", None, "no ImagePositionPatient"),
        ("ImageOrientationPatient", ["1", "0", "0", "1", "0", "0"], "no pair of directions"),
        ("PixelSpacing", ["0", "1"], "not positive"),
        ("PixelData", None, "no pixels"),
    ],
)
def test_images_that_would_be_misread_are_refused(write, element, value, words):
    def edit(_index, dataset):
        if value is None:
            delattr(dataset, element)
        else:
            setattr(dataset, element, value)

    with pytest.raises(InputError, match=words):
        read(write(edit=edit).folder)


def test_monochrome1_changes_how_a_ct_is_shown_not_its_values(write):
    def invert(_index, dataset):
        dataset.PhotometricInterpretation = "MONOCHROME1"

    series = write("ct", edit=invert)
    np.testing.assert_array_equal(read(series.folder)[0], series.voxels.transpose(2, 1, 0))
    with pytest.raises(InputError, match="inverted MR image"):
        read(write("mr", modality="MR", edit=invert).folder)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, DeflatedExplicitVRLittleEndian])
def test_a_file_that_is_cut_short_is_refused_by_its_place_in_the_series(write, syntax):
    series = write(syntax=syntax)
    path = sorted(series.files)[2]
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"DICOM file 3 of 8 .*(cut short|damaged)"):
        read(series.folder)
