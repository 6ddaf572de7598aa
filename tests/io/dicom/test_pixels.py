"""Stored bits become the values that they stand for."""

import tracemalloc

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
from unet_bundle.io.checks import MAX_EXACT
from unet_bundle.io.dicom import DicomSeriesReader
from unet_bundle.io.dicom.pixels import padding_value

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


@pytest.mark.parametrize(
    ("signed", "bits", "written", "value", "padding"),
    [
        (True, 16, "SS", -2000, -2000),
        (True, 16, "US", 63536, -2000),
        (True, 12, "US", 63536, -2000),
        (True, 12, "US", 2096, -2000),
        (True, 12, "SS", -3000, None),
        (False, 16, "SS", -2000, 63536),
        (False, 12, "SS", -2000, None),
        (False, 12, "US", 63536, None),
        (False, 12, "US", 4095, 4095),
        (True, 16, "LO", "air", None),
    ],
)
@pytest.mark.parametrize("keyword", ["PixelPaddingValue", "PixelPaddingRangeLimit"])
def test_padding_has_the_sign_of_the_voxels_and_is_left_out_where_no_voxel_has_it(
    write, signed, bits, written, value, padding, keyword
):
    """Scanners write it unsigned beside signed voxels, and -2000 beside voxels that have no sign."""

    def edit(_index, dataset):
        dataset.RescaleIntercept = "-1024"
        dataset.add_new(keyword, written, value)

    series = write(shape=(12, 10, 2), signed=signed, bits=bits, edit=edit)
    reader = DicomSeriesReader()
    frame = reader.read(series.folder).stack.frames[0]
    assert padding_value(frame) == (None if padding is None else padding - 1024)


def test_what_a_shear_leaves_empty_is_filled_with_the_padding(write):
    def edit(_index, dataset):
        dataset.add_new("PixelPaddingValue", "US", 63536)

    series = write(lean=(0.0, 0.3), edit=edit)
    array, _ = read(series.folder, on_tilt="resample")
    assert array.min() == -2000
    assert array.max() <= series.voxels.max()


def wide(kind, *values):
    """Changes slices to voxels of 32 bits with these among them."""

    def edit(_index, dataset):
        voxels = np.zeros((10, 12), kind)
        voxels[0, : len(values)] = values
        dataset.PixelData, dataset["PixelData"].VR = voxels.tobytes(), "OW"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 32, 32, 31

    return edit


@pytest.mark.parametrize(("signed", "kind"), [(True, "<i4"), (False, "<u4")])
def test_whole_numbers_of_32_bits_are_exact_or_refused(write, signed, kind):
    exact = (MAX_EXACT, MAX_EXACT - 1, -MAX_EXACT if signed else 1)
    array, _ = read(write("exact", signed=signed, edit=wide(kind, *exact)).folder)
    assert array.dtype == np.int32
    assert array[:3, 0, 0].tolist() == list(exact)
    for number in (MAX_EXACT + 1, 2**31 - 1, *([] if signed else [2**32 - 1])):
        with pytest.raises(InputError, match=rf"CT series 0 .*holds the whole number {number}, which float32 rounds"):
            read(write("rounded", signed=signed, edit=wide(kind, number)).folder)


@pytest.mark.parametrize(("slope", "intercept"), [("1e38", "0.5"), ("1", "1e300"), ("1", "-1e20")])
def test_values_that_float32_cannot_hold_are_refused(write, slope, intercept):
    def edit(_index, dataset):
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept

    with pytest.raises(InputError, match=r"beyond (float32|int64)"):
        read(write(edit=edit).folder)


def test_an_intercept_beyond_the_type_that_the_result_would_fit(write, synthetic):
    def edit(_index, dataset):
        synthetic.set_pixels(dataset, np.full((10, 12), 32000, np.uint16))
        dataset.RescaleIntercept = "-40000"

    assert np.unique(read(write(signed=False, edit=edit).folder)[0]).tolist() == [-8000]


def test_words_of_two_bytes_hold_an_odd_number_of_voxels(write):
    """Big endian swaps the bytes of a word, and the last voxel shares its word with the padding."""
    voxels = np.arange(15, dtype=np.uint8).reshape(3, 5)

    def edit(_index, dataset):
        swapped = np.frombuffer(voxels.tobytes() + b"\0", "<u2").byteswap().tobytes()
        dataset.PixelData, dataset["PixelData"].VR = swapped, "OW"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7

    array, _ = read(write(shape=(5, 3, 2), signed=False, syntax=ExplicitVRBigEndian, edit=edit).folder)
    np.testing.assert_array_equal(array[:, :, 0], voxels.T)


def test_a_file_that_is_gone_is_refused_without_its_name(write):
    series = write("PLANTED^NAME")
    reader = DicomSeriesReader()
    checked = reader.read(series.folder)
    series.files[3].unlink()
    with pytest.raises(InputError, match=r"^DICOM file \d of 8 .*cannot be read \(No such file") as refused:
        reader.get_data(checked)
    assert "PLANTED" not in str(refused.value)


def test_of_an_object_of_many_volumes_only_the_one_is_read(synthetic, tmp_path):
    series, path = synthetic.write_multiframe(tmp_path, times=20, shape=(256, 256, 8))
    assert path.stat().st_size > 20 * 2**20
    reader = DicomSeriesReader(volume=20)
    checked = reader.read(path)
    tracemalloc.start()
    array, _ = reader.get_data(checked)
    assert tracemalloc.get_traced_memory()[1] < 5 * 2**20
    tracemalloc.stop()
    np.testing.assert_array_equal(array, series.voxels.transpose(2, 1, 0) + 190 - 1000)
