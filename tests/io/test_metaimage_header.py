"""What a MetaImage header states is read as SimpleITK does; what it leaves open is refused, not guessed."""

import zlib

import numpy as np
import pytest

ORIENTATION = "has an unknown orientation ("
DAMAGED = "is damaged or cut short, its voxels cannot be read"
REFUSED = {
    "no_matrix.mha": ({"TransformMatrix": None}, ORIENTATION + "it states no TransformMatrix"),
    "no_offset.mha": ({"Offset": None}, "states no position in space"),
    "no_spacing.mha": ({"ElementSpacing": None}, "states no voxel size"),
    "mirrored.mha": ({"ElementSpacing": "-1 1.5 2"}, "has a voxel size below zero (-1 x 1.5 x 2 mm)"),
    "microns.mha": ({"DistanceUnits": "um"}, "says that its voxel sizes are in um"),
    "no_order.mha": ({"BinaryDataByteOrderMSB": None}, "does not state the byte order"),
    "ascii.mha": ({"BinaryData": "False"}, "has voxels that are not one raw or zlib stream"),
    "skip.mha": ({"HeaderSize": "-1"}, "has voxels that are not one raw or zlib stream"),
    "scaled.mha": ({"ElementToIntensityFunctionSlope": "2"}, "states a scaling of its voxels"),
    "colour.mha": ({"ElementNumberOfChannels": "3", "ElementType": "MET_UCHAR"}, "has RGB colour voxels"),
    "array.mha": ({"ElementType": "MET_SHORT_ARRAY"}, "has voxels of a type that is no number"),
    "tube.mha": ({"ObjectType": "Tube"}, "is a MetaIO file of another object than an image"),
    "unit.mha": ({"TransformMatrix": "1 0.2 0 0 1 0 0 0 1"}, "has directions that are not of unit length"),
    "plane.mha": (
        {"NDims": "2", "DimSize": "14 12", "TransformMatrix": "1 0 0 1", "Offset": "0 0", "ElementSpacing": "1 1"},
        "has 2 axes of space, not 3",
    ),
    "empty.mha": ({"DimSize": "14 0 9"}, "has shape 14 x 0 x 9, so it holds no image"),
    "more.mha": ({"DimSize": "14 12 10"}, DAMAGED),
    "fewer.mha": ({"DimSize": "14 12 3"}, "holds more voxels than its header says (14 x 12 x 3)"),
    "short.mha": ({"DimSize": "14 12"}, "has a damaged MetaImage header"),
    "word.mha": ({"CompressedData": "perhaps"}, "has a damaged MetaImage header"),
}


def test_how_headers_may_be_written(volumes, write_volume):
    """Byte orders, synonyms, and a stream without its size, which ITK needs."""
    volumes.assert_as_itk(
        write_volume("big.mha", {"BinaryDataByteOrderMSB": "True"}, volumes.VOXELS.astype(">i2").tobytes(order="F"))
    )
    volumes.assert_as_itk(write_volume("synonyms.mha", {"TransformMatrix": None, "Rotation": "0 1 0 -1 0 0 0 0 1"}))
    unsized = write_volume("zlib.mha", {"CompressedData": "True"}, zlib.compress(volumes.VOXELS.tobytes(order="F")))
    np.testing.assert_array_equal(volumes.load(unsized)[0].numpy(), volumes.VOXELS)


def test_an_axis_of_one_time_is_dropped(volumes, write_volume):
    time = {"NDims": "4", "DimSize": "14 12 9 1", "Offset": "5 6 7 0", "ElementSpacing": "1 1.5 2 1"}
    path = write_volume("time.mha", {**time, "TransformMatrix": " ".join(map(str, np.eye(4).ravel()))})
    assert volumes.load(path).shape == (1, *volumes.SHAPE)
    np.testing.assert_allclose(volumes.load(path).affine, volumes.load(write_volume("three.mha", {})).affine)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_header_leaves_open_is_refused(volumes, write_volume, name):
    fields, message = REFUSED[name]
    sentence = volumes.refusal(write_volume(name, fields))
    assert sentence.startswith(f"{name} {message}"), sentence


def test_a_changed_byte_in_compressed_voxels_is_found_by_the_checksum(volumes, tmp_path, affine_of):
    """SimpleITK says nothing of a damaged MetaImage stream and gives other voxels."""
    path = tmp_path / "scan.mha"
    volumes.sitk.WriteImage(volumes.as_itk(volumes.VOXELS, affine_of("RAS")), str(path), True)
    contents = bytearray(path.read_bytes())
    contents[-300] ^= 1
    path.write_bytes(contents)
    assert (volumes.by_itk(path)[0][0] != volumes.VOXELS).any()
    assert volumes.refusal(path).startswith(f"scan.mha {volumes.DAMAGED}")
