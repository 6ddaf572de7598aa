"""What an NRRD header states is read as SimpleITK does; what it leaves open is refused, not guessed."""

import gzip

import numpy as np
import pytest

ORIENTATION = "has an unknown orientation ("
DAMAGED = "is damaged or cut short, its voxels cannot be read"
DIRECTIONS = "(1,0,0) (0,1.5,0) (0,0,2)"
FOUR = {"dimension": "4", "sizes": "3 14 12 9", "space directions": f"none {DIRECTIONS}", "type": "uchar"}
REFUSED = {
    "no_space.nrrd": ({"space": None, "space directions": None, "spacings": "1 1 1"}, ORIENTATION + "it states no sp"),
    "dimension.nrrd": ({"space": None, "space dimension": "3"}, ORIENTATION + "it states no space"),
    "scanner.nrrd": ({"space": "scanner-xyz"}, ORIENTATION + "its space is 'scanner-xyz'"),
    "handed.nrrd": ({"space": "3D-right-handed"}, ORIENTATION + "its space is '3D-right-handed'"),
    "no_directions.nrrd": ({"space directions": None}, ORIENTATION + "it states no directions"),
    "no_origin.nrrd": ({"space origin": None}, "states no position in space"),
    "metres.nrrd": ({"space units": '"m" "m" "m"'}, "says that its voxel sizes are in m:"),
    "no_endian.nrrd": ({"endian": None}, "does not state the byte order"),
    "text.nrrd": ({"encoding": "ascii"}, "has voxels that are not one raw or gzip stream"),
    "skip.nrrd": ({"byte skip": "10"}, "has voxels that are not one raw or gzip stream"),
    "block.nrrd": ({"type": "block"}, "has voxels of a type that is no number"),
    "plane.nrrd": (
        {"dimension": "2", "sizes": "14 12", "space directions": "(1,0,0) (0,1,0)"},
        "has 2 axes of space, not 3",
    ),
    "empty.nrrd": ({"sizes": "14 0 9"}, "has shape 14 x 0 x 9, so it holds no image"),
    "colour.nrrd": ({**FOUR, "kinds": "RGB-color domain domain domain"}, "has RGB colour voxels"),
    "tensor.nrrd": ({**FOUR, "kinds": "3D-matrix domain domain domain"}, "has voxels of kind '3d-matrix'"),
    "layers.seg.nrrd": ({**FOUR, "Segment0_ID:=": "x"}, "has 3 layers of segments that overlap"),
    "flat.nrrd": ({"space directions": "(1,0,0) (2,0,0) (0,0,2)"}, "has an affine whose axes lie in one plane"),
    "nan.nrrd": ({"space origin": "(nan,0,0)"}, "has an affine with NaN"),
    "spacing.nrrd": ({"space directions": "(1000,0,0) (0,1,0) (0,0,2)"}, "has a voxel size of 1000 x 1 x 2 mm"),
    "more.nrrd": ({"sizes": "14 12 10"}, DAMAGED),
    "fewer.nrrd": ({"sizes": "14 12 3"}, "holds more voxels than its header says (14 x 12 x 3)"),
    "huge.nrrd": ({"sizes": "999999999 999999999 9"}, DAMAGED),
    "huge_gzip.nrrd": ({"sizes": "999999999 999999999 9", "encoding": "gzip"}, DAMAGED),
    "unknown.nrrd": ({"spbce units": "mm"}, "has a damaged NRRD header"),
    "word.nrrd": ({"sizes": "14 12 nine"}, "has a damaged NRRD header"),
    "folder.nrrd": ({"data file": "../other/scan.raw"}, "names a voxel file that is not beside it"),
    "list.nrrd": ({"data file": "LIST"}, "has its voxels in several files"),
    "missing.nhdr": ({"data file": "other.raw"}, "has its voxels in other.raw, which is not beside it"),
}


@pytest.mark.parametrize(
    "space", ["RAS", "LAS", "LPS", "right-anterior-superior", "left-anterior-superior", "Left-Posterior-Superior"]
)
def test_every_space_of_a_patient_is_read_as_simpleitk_does(volumes, write_volume, space):
    volumes.assert_as_itk(write_volume("scan.nrrd", {"space": space}))


def test_how_headers_may_be_written(volumes, write_volume):
    """Byte orders, gzip in members, sheared axes, channels last, Windows line ends, units and comments."""
    big = volumes.VOXELS.astype(">i2").tobytes(order="F")
    stream = volumes.VOXELS.tobytes(order="F")
    volumes.assert_as_itk(write_volume("big.nrrd", {"endian": "big"}, big))
    volumes.assert_as_itk(write_volume("gzip.nrrd", {"encoding": "gzip"}, gzip.compress(stream)))
    volumes.assert_as_itk(write_volume("sheared.nrrd", {"space directions": "(1, 0, 0) (0.2, 1.5, 0) (0, 0.1, 2)"}))
    volumes.assert_as_itk(
        write_volume("units.nrrd", {"space units": '"mm" "mm" "mm"', "kinds": "domain domain domain"})
    )
    last = {"dimension": "4", "sizes": "14 12 9 2", "space directions": f"{DIRECTIONS} none"}
    volumes.assert_as_itk(write_volume("last.nrrd", {**last, "kinds": "domain domain domain list"}, stream * 2))
    members = write_volume(
        "members.nrrd", {"encoding": "gzip"}, gzip.compress(stream[:100]) + gzip.compress(stream[100:])
    )
    np.testing.assert_array_equal(volumes.load(members)[0].numpy(), volumes.VOXELS)
    windows = write_volume("windows.nrrd", {}, b"")
    windows.write_bytes(windows.read_bytes().replace(b"\n", b"\r\n") + stream)
    np.testing.assert_array_equal(volumes.load(windows)[0].numpy(), volumes.VOXELS)


def test_a_single_slice_stays_a_volume_and_a_single_channel_is_none(volumes, write_volume):
    one = volumes.VOXELS[..., :1].tobytes(order="F")
    assert volumes.load(write_volume("slice.nrrd", {"sizes": "14 12 1"}, one)).shape == (1, 14, 12, 1)
    fields = {"dimension": "4", "sizes": "1 14 12 9", "space directions": f"none {DIRECTIONS}"}
    assert volumes.load(write_volume("channel.nrrd", fields)).shape == (1, *volumes.SHAPE)


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_header_leaves_open_is_refused(volumes, write_volume, name):
    fields, message = REFUSED[name]
    contents = gzip.compress(volumes.VOXELS.tobytes()) if "gzip" in name else None
    sentence = volumes.refusal(write_volume(name, fields, contents))
    assert sentence.startswith(f"{name} {message}"), sentence


def test_simpleitk_alone_would_have_guessed(volumes, write_volume):
    """Why the headers are read here: a scan of unknown orientation comes back as one that lies straight."""
    path = write_volume(
        "scan.nrrd", {"space": None, "space directions": None, "space origin": None, "spacings": "1 1 1"}
    )
    np.testing.assert_array_equal(np.abs(volumes.by_itk(path)[1]), np.eye(4))
    assert "unknown orientation" in volumes.refusal(path)


def test_every_nrrd_of_dcmqi_is_read_as_simpleitk_does(volumes, shared_data):
    paths = sorted(shared_data("dicom_objects").rglob("*.nrrd"))
    assert len(paths) == 8
    for path in paths:
        volumes.assert_as_itk(path)
