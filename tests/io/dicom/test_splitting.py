"""Planes whose voxels mean different things are never one volume; what varies in one keeps it together."""

import numpy as np
import pytest

from unet_bundle.errors import InputError
from unet_bundle.io.dicom import DicomSeriesReader


def read(path, **options):
    reader = DicomSeriesReader(**options)
    return reader.get_data(reader.read(path))


def by_slice(keyword, value_of):
    """An edit that gives each slice a value of its own."""

    def edit(index, dataset):
        value = value_of(index)
        if value is not None:
            setattr(dataset, keyword, value)

    return edit


@pytest.mark.parametrize(
    ("modality", "keyword", "values"),
    [
        ("MR", "EchoTime", ("10", "80")),
        ("MR", "EchoNumbers", (1, 2)),
        ("MR", "InversionTime", ("700", "2500")),
        ("MR", "DiffusionBValue", (0.0, 1000.0)),
        ("MR", "TemporalPositionIdentifier", (1, 2)),
        ("MR", "RescaleType", ("HZ", "NORMALIZED")),
        ("MR", "ComplexImageComponent", ("MAGNITUDE", "PHASE")),
        ("MR", "ImageType", (["ORIGINAL", "PRIMARY", "M", "ND"], ["ORIGINAL", "PRIMARY", "P", "ND"])),
        ("CT", "ImageType", (["ORIGINAL", "PRIMARY", "AXIAL"], ["DERIVED", "PRIMARY", "AXIAL"])),
        ("PT", "Units", ("BQML", "CNTS")),
        ("PT", "Units", ("BQML", None)),
    ],
)
@pytest.mark.parametrize("arranged", ["interleaved", "upper half"])
def test_slices_that_mean_different_things_are_not_one_volume(write, modality, keyword, values, arranged):
    kind = (lambda index: values[index % 2]) if arranged == "interleaved" else (lambda index: values[index // 4])
    series = write(modality=modality, edit=by_slice(keyword, kind))
    with pytest.raises(InputError, match=f"holds 2 volumes.*12 x 10 x 4, {keyword} .*12 x 10 x 4, {keyword} "):
        read(series.folder)
    chosen = series.voxels[::2] if arranged == "interleaved" else series.voxels[:4]
    both = [read(series.folder, volume=number) for number in (1, 2)]
    meta = next(meta for array, meta in both if np.array_equal(array, chosen.transpose(2, 1, 0)))
    np.testing.assert_allclose(meta["affine"][2, 2], 4.0 if arranged == "interleaved" else 2.0)


@pytest.mark.parametrize(
    ("modality", "keyword", "value_of"),
    [
        ("CT", "AcquisitionNumber", lambda index: index // 4),
        ("CT", "AcquisitionTime", lambda index: f"1015{index:02d}"),
        ("CT", "ImageType", lambda index: ["ORIGINAL", "PRIMARY", "AXIAL", ("HELIX", "SPI")[index % 2]]),
        ("CT", "RescaleType", lambda index: ("HU", "US")[index % 2]),
        ("CT", "KVP", lambda index: ("140", "120")[index // 4]),
        ("CT", "ConvolutionKernel", lambda index: ("H31s", "H45s")[index // 4]),
        ("MR", "FlipAngle", lambda index: str(60 + index)),
        ("MR", "TriggerTime", lambda index: str(100 * (index % 4))),
        ("MR", "EchoTime", lambda index: ("2.10", "2.1", "2.104", "2.108")[index % 4]),
        ("MR", "InversionTime", lambda index: str(300 + 10 * (index // 2))),
        ("MR", "TemporalPositionIdentifier", lambda index: index + 1),
        ("PT", "FrameReferenceTime", lambda index: str(1000.0 * (index // 4))),
    ],
)
def test_what_varies_within_true_volumes_keeps_them_together(write, modality, keyword, value_of):
    series = write(modality=modality, edit=by_slice(keyword, value_of))
    np.testing.assert_array_equal(read(series.folder)[0], series.voxels.transpose(2, 1, 0))


def test_mr_slices_with_and_without_rescaling_are_not_one_volume(write):
    def edit(index, dataset):
        if index < 4:
            dataset.RescaleSlope, dataset.RescaleIntercept = "2.5", "0"

    with pytest.raises(InputError, match="holds 2 volumes"):
        read(write(modality="MR", edit=edit).folder)


def test_repeats_of_one_meaning_do_not_hide_the_volume_of_another(write, tmp_path):
    """A b = 0 volume beside three directions that nothing tells apart: the first can be read."""
    parts = []
    for number, b_value in enumerate((0.0, 1000.0, 1000.0, 1000.0)):

        def edit(index, dataset, number=number, b_value=b_value):
            dataset.DiffusionBValue, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = b_value, "1.2.3", "1.2.4"
            dataset.SOPInstanceUID = f"1.2.5.{number}.{index + 1}"

        parts.append(write(f"all/{number}", seed=number, modality="MR", edit=edit))
    np.testing.assert_array_equal(read(tmp_path / "all", volume=1)[0], parts[0].voxels.transpose(2, 1, 0))
    with pytest.raises(InputError, match="24 slices at 8 positions and nothing in their headers tells"):
        read(tmp_path / "all", volume=2)


def test_repeats_are_not_split_into_volumes_of_mixed_meaning(write, tmp_path):
    """Two acquisitions, each with two echoes in turn: the acquisition number alone would mix the echoes."""
    for number in (1, 2):

        def edit(index, dataset, number=number):
            dataset.AcquisitionNumber, dataset.EchoTime = number, ("10", "80")[(index + number) % 2]
            dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3", "1.2.4"
            dataset.SOPInstanceUID = f"1.2.5.{number}.{index + 1}"

        write(f"all/{number}", seed=number, modality="MR", edit=edit)
    with pytest.raises(InputError, match=r"holds 2 volumes.*EchoTime 10; .*EchoTime 80"):
        read(tmp_path / "all")


@pytest.mark.parametrize(
    ("modality", "keyword", "values", "told"),
    [
        ("CT", "KVP", ("80", "140"), "KVP 80; .*KVP 140"),
        ("CT", "ConvolutionKernel", (["Br40f", "3"], ["Br64f", "3"]), r"ConvolutionKernel Br40f.3; .* Br64f.3"),
        ("CT", "NominalPercentageOfCardiacPhase", (30.0, 70.0), "Phase 30; .*Phase 70"),
        ("MR", "FlipAngle", ("5", "20"), "FlipAngle 5; .*FlipAngle 20"),
        ("MR", "DiffusionGradientOrientation", ([1.0, 0.0, 0.0], [0.0, 0.0, 1.0]), r"Orientation 0.0.1; .* 1.0.0"),
    ],
)
def test_what_was_set_tells_slices_at_the_same_places_apart(write, tmp_path, modality, keyword, values, told):
    parts = []
    for number, value in enumerate(values):

        def edit(index, dataset, number=number, value=value):
            dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3", "1.2.4"
            dataset.SOPInstanceUID = f"1.2.5.{number}.{index + 1}"
            setattr(dataset, keyword, value)

        parts.append(write(f"all/{number}", seed=number, modality=modality, edit=edit).voxels.transpose(2, 1, 0))
    with pytest.raises(InputError, match=f"holds 2 volumes.*{told}"):
        read(tmp_path / "all")
    found = [read(tmp_path / "all", volume=number)[0] for number in (1, 2)]
    assert all(any(np.array_equal(part, each) for each in found) for part in parts)
