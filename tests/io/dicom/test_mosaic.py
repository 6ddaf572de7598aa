"""A mosaic whose private header is damaged is refused, never placed by a guess."""

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
