"""Every format against an independent reader (SimpleITK, nibabel); what is left open is refused, not guessed."""

import gzip
import shutil
import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser
from scipy.io import savemat

from unet_bundle.errors import InputError
from unet_bundle.io import case_name, find_cases, find_images

sitk = pytest.importorskip("SimpleITK")

SHAPE = (14, 12, 9)
VOXELS = np.random.default_rng(0).integers(-500, 1500, SHAPE).astype(np.int16)
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def parse(chain, **values):
    return ConfigParser({"chain": {"_target_": "Compose", "transforms": chain}, **values}).get_parsed_content("chain")


def load(path, **arguments):
    """Load one file, or channels, by a transform list that a bundle's config might hold."""
    chain = parse([{"_target_": "unet_bundle.io.LoadImaged", "keys": "image", **arguments}])
    return chain({"image": [str(one) for one in path] if isinstance(path, list) else str(path)})["image"]


def refusal(path):
    """The one sentence that a load is refused with; anything else that happens is an error."""
    with pytest.raises(RuntimeError, match="applying transform") as caught:
        load(path)
    return checked_sentence(caught.value, path)


def checked_sentence(error, path):
    cause = error.__cause__
    assert isinstance(cause, InputError), repr(cause)
    sentence = str(cause)
    assert "\n" not in sentence
    assert ": " in sentence, "each refusal says what to do"
    assert str(Path(path).parent) not in sentence, "the folder may be a patient's"
    return sentence


def as_itk(voxels, affine):
    """An image [x, y, z] or [x, y, z, channel] with an orthogonal RAS affine, as SimpleITK has it."""
    lps = LPS_FROM_RAS @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    axes = (2, 1, 0) if voxels.ndim == 3 else (2, 1, 0, 3)
    image = sitk.GetImageFromArray(voxels.transpose(axes), isVector=voxels.ndim == 4)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    return image


def by_itk(path):
    """Voxels [channel, x, y, z] and RAS affine, as SimpleITK reads them."""
    image = sitk.ReadImage(str(path))
    voxels = sitk.GetArrayFromImage(image)
    channels = voxels[..., None] if voxels.ndim == 3 else voxels
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return channels.transpose(3, 2, 1, 0), LPS_FROM_RAS @ affine


def assert_as_itk(path):
    image, (voxels, affine) = load(path), by_itk(path)
    np.testing.assert_array_equal(image.numpy(), voxels.astype(np.float32))
    np.testing.assert_allclose(image.affine, affine, atol=1e-9)
    np.testing.assert_array_equal(image.meta["original_affine"], image.affine)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.float32, np.float64])
def test_voxels_and_affine_are_those_of_simpleitk(tmp_path, affine_of, suffix, compressed, dtype):
    path = tmp_path / f"scan{suffix}"
    voxels = (np.abs(VOXELS) if np.issubdtype(dtype, np.unsignedinteger) else VOXELS).astype(dtype)
    sitk.WriteImage(as_itk(voxels, affine_of("oblique")), str(path), compressed)
    np.testing.assert_array_equal(load(path)[0].numpy(), voxels.astype(np.float32))
    np.testing.assert_allclose(load(path).affine, affine_of("oblique"), atol=1e-9)
    assert_as_itk(path)


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "LPS", "PSR"])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_every_orientation_is_that_of_simpleitk(tmp_path, affine_of, orientation, suffix):
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(as_itk(VOXELS, affine_of(orientation)), str(path))
    np.testing.assert_allclose(load(path).affine, affine_of(orientation), atol=1e-9)
    assert_as_itk(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_a_fourth_axis_holds_channels(tmp_path, affine_of, suffix):
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(as_itk(np.stack([VOXELS, VOXELS + 1], axis=-1), affine_of("oblique")), str(path))
    assert load(path, channels=2).shape == (2, *SHAPE)
    assert_as_itk(path)


NRRD = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "14 12 9",
    "space directions": "(1,0,0) (0,1.5,0) (0,0,2)",
    "space origin": "(5,6,7)",
    "endian": "little",
    "encoding": "raw",
}
META = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "5 6 7",
    "ElementSpacing": "1 1.5 2",
    "DimSize": "14 12 9",
    "ElementType": "MET_SHORT",
}


@pytest.fixture
def write(tmp_path):
    """A function that writes a header field by field (None leaves one out) and voxels behind it."""

    def write_file(name, fields, contents=None):
        stem, tail = (NRRD, "\n") if name.endswith(("nrrd", "nhdr")) else (META, "ElementDataFile = LOCAL\n")
        sign = ": " if stem is NRRD else " = "
        lines = [f"{label}{sign}{value}\n" for label, value in {**stem, **fields}.items() if value is not None]
        head = "NRRD0005\n# made by a test\n" if stem is NRRD else ""
        path = tmp_path / name
        voxels = VOXELS.tobytes(order="F") if contents is None else contents
        path.write_bytes((head + "".join(lines) + tail).encode() + voxels)
        return path

    return write_file


@pytest.mark.parametrize(
    "space", ["RAS", "LAS", "LPS", "right-anterior-superior", "left-anterior-superior", "Left-Posterior-Superior"]
)
def test_every_space_of_a_patient_is_read_as_simpleitk_does(write, space):
    assert_as_itk(write("scan.nrrd", {"space": space}))


def test_how_headers_may_be_written(write):
    """Byte orders, gzip in members, sheared axes, channels first and last, Windows line ends, units and comments."""
    big = VOXELS.astype(">i2").tobytes(order="F")
    stream = VOXELS.tobytes(order="F")
    assert_as_itk(write("big.nrrd", {"endian": "big"}, big))
    assert_as_itk(write("big.mha", {"BinaryDataByteOrderMSB": "True"}, big))
    assert_as_itk(write("gzip.nrrd", {"encoding": "gzip"}, gzip.compress(stream)))
    assert_as_itk(write("sheared.nrrd", {"space directions": "(1, 0, 0) (0.2, 1.5, 0) (0, 0.1, 2)"}))
    assert_as_itk(write("units.nrrd", {"space units": '"mm" "mm" "mm"', "kinds": "domain domain domain"}))
    assert_as_itk(write("synonyms.mha", {"TransformMatrix": None, "Rotation": "0 1 0 -1 0 0 0 0 1"}))
    last = {"dimension": "4", "sizes": "14 12 9 2", "space directions": f"{NRRD['space directions']} none"}
    assert_as_itk(write("last.nrrd", {**last, "kinds": "domain domain domain list"}, stream * 2))
    members = write("members.nrrd", {"encoding": "gzip"}, gzip.compress(stream[:100]) + gzip.compress(stream[100:]))
    np.testing.assert_array_equal(load(members)[0].numpy(), VOXELS)
    unsized = write("zlib.mha", {"CompressedData": "True"}, zlib.compress(stream))  # ITK needs CompressedDataSize
    np.testing.assert_array_equal(load(unsized)[0].numpy(), VOXELS)
    windows = write("windows.nrrd", {}, b"")
    windows.write_bytes(windows.read_bytes().replace(b"\n", b"\r\n") + stream)
    np.testing.assert_array_equal(load(windows)[0].numpy(), VOXELS)


def test_a_single_slice_stays_a_volume_and_a_single_channel_is_none(write):
    one = VOXELS[..., :1].tobytes(order="F")
    assert load(write("slice.nrrd", {"sizes": "14 12 1"}, one)).shape == (1, 14, 12, 1)
    fields = {"dimension": "4", "sizes": "1 14 12 9", "space directions": f"none {NRRD['space directions']}"}
    assert load(write("channel.nrrd", fields)).shape == (1, *SHAPE)
    time = {"NDims": "4", "DimSize": "14 12 9 1", "Offset": "5 6 7 0", "ElementSpacing": "1 1.5 2 1"}
    path = write("time.mha", {**time, "TransformMatrix": " ".join(map(str, np.eye(4).ravel()))})
    assert load(path).shape == (1, *SHAPE)
    np.testing.assert_allclose(load(path).affine, load(write("three.mha", {})).affine)


ORIENTATION = "has an unknown orientation ("
DAMAGED = "is damaged or cut short, its voxels cannot be read"
FOUR = {"dimension": "4", "sizes": "3 14 12 9", "space directions": f"none {NRRD['space directions']}", "type": "uchar"}
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
    "no_matrix.mha": ({"TransformMatrix": None}, ORIENTATION + "it states no TransformMatrix"),
    "no_offset.mha": ({"Offset": None}, "states no position in space"),
    "no_spacing.mha": ({"ElementSpacing": None}, "states no voxel size"),
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


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_header_leaves_open_is_refused(write, name):
    fields, message = REFUSED[name]
    contents = gzip.compress(VOXELS.tobytes()) if "gzip" in name else None
    sentence = refusal(write(name, fields, contents))
    assert sentence.startswith(f"{name} {message}"), sentence


def test_simpleitk_alone_would_have_guessed(write):
    """Why the headers are read here: a scan of unknown orientation comes back as one that lies straight."""
    path = write("scan.nrrd", {"space": None, "space directions": None, "space origin": None, "spacings": "1 1 1"})
    np.testing.assert_array_equal(np.abs(by_itk(path)[1]), np.eye(4))
    assert "unknown orientation" in refusal(path)


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.mha"])
def test_floats_that_are_no_numbers_are_refused(tmp_path, affine_of, name):
    voxels = VOXELS.astype(np.float32)
    voxels[1, 2, 3:5] = np.nan, np.inf
    sitk.WriteImage(as_itk(voxels, affine_of("RAS")), str(tmp_path / name))
    assert refusal(tmp_path / name).startswith(f"{name} has 2 voxels that are NaN, infinite or beyond float32")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mgz"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_compressed_file_cut_short_is_refused(tmp_path, affine_of, suffix, kept):
    path = tmp_path / f"scan{suffix}"
    if suffix == ".mgz":
        nib.save(nib.MGHImage(VOXELS, affine_of("oblique")), path)
    else:
        sitk.WriteImage(as_itk(VOXELS, affine_of("oblique")), str(path), True)
    contents = path.read_bytes()
    path.write_bytes(contents[: int(kept * len(contents))])
    refusal(path)


def test_a_changed_byte_in_compressed_voxels_is_found_by_the_checksum(tmp_path, affine_of):
    """SimpleITK says nothing of a damaged MetaImage stream and gives other voxels."""
    path = tmp_path / "scan.mha"
    sitk.WriteImage(as_itk(VOXELS, affine_of("RAS")), str(path), True)
    contents = bytearray(path.read_bytes())
    contents[-300] ^= 1
    path.write_bytes(contents)
    assert (by_itk(path)[0][0] != VOXELS).any()
    assert refusal(path).startswith(f"scan.mha {DAMAGED}")


def test_header_and_voxels_in_two_files_need_each_other(tmp_path, affine_of):
    for name, data in [("scan.nhdr", "scan.raw"), ("other.mhd", "other.raw")]:
        sitk.WriteImage(as_itk(VOXELS, affine_of("RAS")), str(tmp_path / name))
        (tmp_path / data).rename(tmp_path / "away")
        assert refusal(tmp_path / name).startswith(f"{name} has its voxels in {data}, which is not beside it")
    assert refusal(tmp_path / "none.mha") == "none.mha does not exist: check the path"
    (tmp_path / "folder.mha").mkdir()
    assert refusal(tmp_path / "folder.mha").startswith("folder.mha is a folder")


def test_several_files_become_channels(tmp_path, affine_of):
    paths = [tmp_path / "a.nrrd", tmp_path / "b.mha", tmp_path / "c.mha"]
    for path, orientation in zip(paths, ["oblique", "oblique", "RAS"], strict=True):
        sitk.WriteImage(as_itk(VOXELS, affine_of(orientation)), str(path))
    assert load(paths[:2], channels=2).shape == (2, *SHAPE)
    with pytest.raises(RuntimeError) as caught:
        load(paths[1:])
    assert "c.mha is not on the grid of b.mha" in str(caught.value.__cause__)


# FreeSurfer's MGH


@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("channels", [(), (2,)])
def test_mgh_is_read_as_nibabel_does(tmp_path, affine_of, suffix, dtype, channels):
    path = tmp_path / f"scan{suffix}"
    voxels = np.random.default_rng(0).integers(0, 255, SHAPE + channels).astype(dtype)
    nib.save(nib.MGHImage(voxels, affine_of("oblique")), path)
    image = load(path)
    np.testing.assert_array_equal(image.numpy(), np.moveaxis(voxels.reshape(*SHAPE, -1), -1, 0))
    np.testing.assert_array_equal(image.affine, nib.load(path).affine)
    np.testing.assert_allclose(image.affine, affine_of("oblique"), atol=1e-4)


@pytest.mark.parametrize(
    ("position", "value", "message"),
    [
        (28, np.int16(0), "has an unknown orientation (its goodRASFlag is 0)"),
        (28, np.int16(257), "has an unknown orientation (its goodRASFlag is 257)"),
        (0, np.int32(2), "is not an MGH file"),
        (4, np.int32(0), "has shape 0 x 12 x 9 x 1, so it holds no image"),
        (4, np.int32(-3), "has shape -3 x 12 x 9 x 1, so it holds no image"),
        (4, np.int32(2**31 - 1), DAMAGED),
        (12, np.int32(3), "holds more voxels than its header says (14 x 12 x 3 x 1)"),
        (20, np.int32(9), "has voxels of a type that MGH does not know"),
        (42, np.float32(0.5), "has directions that are not of unit length"),
        (78, np.float32(np.nan), "has an affine with NaN"),
    ],
)
def test_mgh_in_doubt_is_refused(tmp_path, affine_of, position, value, message):
    path = tmp_path / "scan.mgh"
    nib.save(nib.MGHImage(np.abs(VOXELS) + np.int16(200), affine_of("RAS")), path)
    contents = bytearray(path.read_bytes())
    stored = np.array(value, value.dtype.newbyteorder(">")).tobytes()
    contents[position : position + len(stored)] = stored
    path.write_bytes(contents)
    assert refusal(path).startswith(f"scan.mgh {message}"), refusal(path)


# NIfTI and Analyze in two files


@pytest.mark.parametrize("pair_class", [nib.Nifti1Pair, nib.Nifti2Pair])
@pytest.mark.parametrize("named", ["scan.hdr", "scan.img"])
def test_nifti_in_two_files_is_read(tmp_path, affine_of, pair_class, named):
    nib.save(pair_class(VOXELS, affine_of("oblique")), tmp_path / "scan.hdr")
    image = load(tmp_path / named)
    np.testing.assert_array_equal(image[0].numpy(), VOXELS)
    np.testing.assert_allclose(image.affine, affine_of("oblique"), atol=1e-4)
    (tmp_path / "scan.img").write_bytes((tmp_path / "scan.img").read_bytes()[:-1])
    assert refusal(tmp_path / named).startswith(f"{named} {DAMAGED}")


def test_analyze_is_refused_by_name(tmp_path, affine_of):
    """Left and right are a matter of habit there; also with the .mat that SPM puts beside it."""
    nib.save(nib.AnalyzeImage(VOXELS, np.diag([1.0, 1.5, 2.0, 1.0])), tmp_path / "scan.hdr")
    savemat(tmp_path / "scan.mat", {"mat": affine_of("RAS")})
    for name in ["scan.hdr", "scan.img"]:
        expected = "is an Analyze file, which does not state its orientation: convert it to NIfTI from its source"
        assert refusal(tmp_path / name) == f"{name} {expected}"
    (tmp_path / "scan.hdr").unlink()
    assert refusal(tmp_path / "scan.img").startswith("scan.img belongs to scan.hdr, which is not beside it")


# names, folders, results


def test_cases_are_named_and_found_in_every_format(tmp_path, affine_of):
    endings = ["nrrd", "nhdr", "mha", "mhd", "mgh", "mgz", "hdr", "img", "seg.nrrd", "nii.gz"]
    assert {case_name(f"folder/liver_004.{ending}") for ending in endings} == {"liver_004"}
    for folder, label in [("images", "case_1.mha"), ("labels", "case_1.seg.nrrd")]:
        (tmp_path / folder).mkdir()
        sitk.WriteImage(as_itk(np.abs(VOXELS), affine_of("RAS")), str(tmp_path / folder / label))
    cases = find_cases(tmp_path)
    assert [(Path(case["image"]).name, Path(case["label"]).name) for case in cases] == [
        ("case_1.mha", "case_1.seg.nrrd")
    ]
    nib.save(nib.Nifti1Pair(VOXELS, affine_of("RAS")), tmp_path / "images" / "case_2.hdr")
    assert [Path(case["image"]).name for case in find_images(tmp_path / "images")] == ["case_1.mha", "case_2.hdr"]


@pytest.mark.parametrize("ending", ["nrrd", "nhdr", "seg.nrrd", "mha", "mhd", "mgz", "hdr"])
@pytest.mark.parametrize("orientation", ["PSR", "oblique"])
def test_results_are_nifti_on_the_grid_of_the_input(tmp_path, affine_of, ending, orientation):
    """Loaded and saved as a bundle's config does it: the same voxels at the same places, to 1e-4 mm."""
    labels, path = (VOXELS > 800).astype(np.uint8), tmp_path / f"liver_004.{ending}"
    affine = affine_of(orientation)
    if ending == "hdr":
        nib.save(nib.Nifti1Pair(labels, affine), path)
    elif ending == "mgz":
        nib.save(nib.MGHImage(labels, affine), path)
    else:
        sitk.WriteImage(as_itk(labels, affine), str(path))
    chain = [
        {"_target_": "unet_bundle.io.LoadImaged", "keys": "image", "channels": 1},
        {"_target_": "unet_bundle.io.SaveImaged", "keys": "image", "output_dir": str(tmp_path / "out")},
    ]
    parse(chain)({"image": str(path)})
    assert [result.name for result in (tmp_path / "out").iterdir()] == ["liver_004_seg.nii.gz"]
    result = nib.load(tmp_path / "out" / "liver_004_seg.nii.gz")
    np.testing.assert_array_equal(np.asarray(result.dataobj), labels)
    np.testing.assert_allclose(result.affine, affine, atol=1e-4)
    voxels, itk_affine = by_itk(tmp_path / "out" / "liver_004_seg.nii.gz")
    np.testing.assert_array_equal(voxels[0], labels)
    np.testing.assert_allclose(itk_affine, affine, atol=1e-4)


# real files


def test_every_nrrd_of_dcmqi_is_read_as_simpleitk_does(shared_data):
    paths = sorted(shared_data("dicom_objects").rglob("*.nrrd"))
    assert len(paths) == 8
    for path in paths:
        assert_as_itk(path)


@pytest.mark.parametrize("ending", ["nrrd", "nhdr", "mha", "mhd"])
def test_a_hippocampus_converted_by_simpleitk_is_the_same_scan(shared_data, tmp_path, ending):
    source = min(shared_data("task04_hippocampus").glob("imagesTr/*.nii.gz"))
    path = tmp_path / f"scan.{ending}"
    sitk.WriteImage(sitk.ReadImage(str(source)), str(path), True)
    np.testing.assert_array_equal(load(path).numpy(), load(source).numpy())
    np.testing.assert_allclose(load(path).affine, load(source).affine, atol=1e-4)


# damage from a fixed seed

ENDINGS = ["nii", "nii.gz", "hdr", "nrrd", "mha", "mgh", "mgz"]


def damaged_copies(folder, affine, ending, count):
    """Bytes of the file of a small scan, each time with some changed or the end cut off."""
    path = folder / f"scan.{ending}"
    image = as_itk(VOXELS, affine)
    if ending in ("nrrd", "mha"):
        sitk.WriteImage(image, str(path), ending == "mha")
    else:
        image_class = {"hdr": nib.Nifti1Pair, "mgh": nib.MGHImage, "mgz": nib.MGHImage}.get(ending, nib.Nifti1Image)
        nib.save(image_class(VOXELS, affine), path)
    rng, contents = np.random.default_rng(20261123), path.read_bytes()
    for turn in range(count):
        damaged = bytearray(contents)
        for _ in range(1 + turn % 3):
            damaged[rng.integers(min(len(damaged), 480))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged if turn % 4 else contents[: rng.integers(len(contents))])
        yield path


def independent_affine(path, otherwise):
    """The affine by another reader; `otherwise`, the undamaged file's, where that reader is stricter."""
    try:
        return by_itk(path)[1] if path.suffix in (".nrrd", ".mha") else nib.load(path).affine
    except (RuntimeError, ValueError, nib.spatialimages.HeaderDataError):
        return otherwise


def outcome(path):
    try:
        return load(path)
    except RuntimeError as error:
        return checked_sentence(error, path)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("ending", "count"),
    [(ending, 30) for ending in ENDINGS]
    + [pytest.param(ending, 200, marks=pytest.mark.integration) for ending in ENDINGS],
)
def test_damage_is_refused_in_one_line_or_harmless(tmp_path, affine_of, ending, count):
    refused = 0
    for path in damaged_copies(tmp_path, affine_of("oblique"), ending, count):
        image = outcome(path)
        if isinstance(image, str):
            refused += 1
            continue
        np.testing.assert_allclose(image.affine, independent_affine(path, affine_of("oblique")), atol=1e-4)
        assert image.shape[1:] == SHAPE
    assert count / 5 < refused


def test_a_copy_under_another_name_is_read_alike(tmp_path, affine_of):
    sitk.WriteImage(as_itk(VOXELS, affine_of("RAS")), str(tmp_path / "scan.mha"))
    shutil.copy(tmp_path / "scan.mha", tmp_path / "SCAN.MHA")
    np.testing.assert_array_equal(load(tmp_path / "SCAN.MHA")[0].numpy(), VOXELS)
