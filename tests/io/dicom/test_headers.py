"""What is read of a file for its header is little, however large it is and whatever it holds."""

import os
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from unet_bundle.errors import InputError
from unet_bundle.io.dicom import DicomSeriesReader
from unet_bundle.io.dicom.headers import read_headers, survey_headers
from unet_bundle.io.dicom.parsing import HEADER_BYTES, MAX_ZEROS
from unet_bundle.io.dicom.sources import find_sources

GIBIBYTE = 2**30
MEBIBYTE = 2**20


def headers_within(path, megabytes, seconds=10):
    """The headers below a path, read with no more memory and time than this."""
    sources = find_sources(path)
    tracemalloc.start()
    start = time.process_time()
    try:
        return read_headers(sources)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < megabytes * MEBIBYTE
        assert time.process_time() - start < seconds


def stretched(path, size=3 * GIBIBYTE):
    """The file made so long by zeros, which need no room on the disk."""
    os.truncate(path, size)
    return path


def test_a_long_header_is_read_without_the_pixels_behind_it(synthetic, tmp_path):
    _, path = synthetic.write_multiframe(tmp_path, times=60)
    for each in (tmp_path / "single").iterdir():
        each.unlink()
    (whole,) = headers_within(tmp_path, 64)
    assert whole.pixel_offset > HEADER_BYTES
    stretched(path)
    (header,) = headers_within(tmp_path, 64)
    assert header.pixel_offset == whole.pixel_offset
    assert len(header.dataset.PerFrameFunctionalGroupsSequence) == 480


def test_a_long_header_in_an_archive_is_read_too(synthetic, tmp_path):
    series, path = synthetic.write_multiframe(tmp_path, times=60)
    with zipfile.ZipFile(tmp_path / "study.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(path, "enhanced")
    reader = DicomSeriesReader(volume=3)
    array, _ = reader.get_data(reader.read(tmp_path / "study.zip"))
    np.testing.assert_array_equal(array, series.voxels.transpose(2, 1, 0) + 20 - 1000)


@pytest.mark.parametrize("start", [b"\x08\0", b"\x02\0\0\0", b"\x08\0\x08\0CS\x04\0ABCD"])
def test_a_large_file_that_begins_like_an_old_one_is_passed_over(write, start):
    series = write()
    path = series.folder / "weights.bin"
    path.write_bytes(start)
    stretched(path)
    assert len(headers_within(series.folder, 8)) == 8


def elements(count):
    """Empty elements of one tag, over and over: not zeros, and never the pixels."""
    return b"\x09\0\x16\0LO\0\0" * count


@pytest.mark.parametrize("rest", [b"", elements(MEBIBYTE)])
def test_a_file_that_claims_to_be_dicom_and_is_something_else_is_refused_soon(write, tmp_path, rest):
    path = write("scan").files[2]
    contents = path.read_bytes()
    meta = contents[: contents.index(b"\x08\0\x08\0CS")]
    path.write_bytes(meta + rest)
    stretched(path)
    with pytest.raises(InputError, match=r"DICOM file \d of 8 .*damaged"):
        headers_within(tmp_path, 64)


def test_zeros_in_the_middle_of_functional_groups_are_damage(synthetic, tmp_path):
    """A download that was made room for: each eight zeros would become an item."""
    _, path = synthetic.write_multiframe(tmp_path, times=600)
    contents = bytearray(path.read_bytes())
    start = contents.index(b"\0\x52\x30\x92SQ") + 2000
    contents[start : start + 2 * MAX_ZEROS] = bytes(2 * MAX_ZEROS)
    path.write_bytes(contents)
    with pytest.raises(InputError, match="the DICOM file is damaged"):
        read_headers(find_sources(path))


def test_damage_deep_in_functional_groups_is_refused_in_one_line(synthetic, tmp_path):
    _, path = synthetic.write_multiframe(tmp_path)
    contents = bytearray(path.read_bytes())
    place = contents.rindex(b"\x20\0\x32\0DS")
    contents[place + 8 : place + 12] = b"#!?\xff"
    path.write_bytes(contents)
    with pytest.raises(InputError, match="unusable ImagePositionPatient"):
        DicomSeriesReader().read(path)


def test_every_damaged_header_is_counted_and_the_others_are_read(write):
    series = write()
    for number in (1, 4):
        path = sorted(series.files)[number]
        path.write_bytes(path.read_bytes()[:400])
    with pytest.raises(InputError, match=r"DICOM file 2 of 8 .*damaged.* \(and 1 more such file\)"):
        read_headers(find_sources(series.folder))
    headers, refusals = survey_headers(find_sources(series.folder))
    assert [header.number for header in headers] == [1, 3, 4, 6, 7, 8]
    assert [str(refusal)[:12] for refusal in refusals] == ["DICOM file 2", "DICOM file 5"]


def test_a_file_that_ends_within_the_patient_id_is_damaged(write):
    """A length that is too large swallows what stands behind; the slice must not go missing."""
    path = write().files[3]
    contents = bytearray(path.read_bytes())
    start = contents.index(b"\x10\0\x20\0LO")
    contents[start + 6 : start + 8] = (60_000).to_bytes(2, "little")
    path.write_bytes(contents)
    with pytest.raises(InputError, match="damaged or cut short"):
        read_headers(find_sources(path.parent))
