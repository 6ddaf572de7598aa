"""Volumes of every format against an independent reader: SimpleITK, and nibabel for MGH."""

import gzip
import shutil
import tracemalloc
import zlib

import nibabel as nib
import numpy as np
import pytest

DAMAGED = "is damaged or cut short, its voxels cannot be read"


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.float32, np.float64])
def test_voxels_and_affine_are_those_of_simpleitk(volumes, tmp_path, affine_of, suffix, compressed, dtype):
    path = tmp_path / f"scan{suffix}"
    voxels = (np.abs(volumes.VOXELS) if np.issubdtype(dtype, np.unsignedinteger) else volumes.VOXELS).astype(dtype)
    volumes.sitk.WriteImage(volumes.as_itk(voxels, affine_of("oblique")), str(path), compressed)
    np.testing.assert_array_equal(volumes.load(path)[0].numpy(), voxels.astype(np.float32))
    np.testing.assert_allclose(volumes.load(path).affine, affine_of("oblique"), atol=1e-9)
    volumes.assert_as_itk(path)


@pytest.mark.parametrize("orientation", ["RAS", "LAS", "LPS", "PSR"])
@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_every_orientation_is_that_of_simpleitk(volumes, tmp_path, affine_of, orientation, suffix):
    path = tmp_path / f"scan{suffix}"
    volumes.sitk.WriteImage(volumes.as_itk(volumes.VOXELS, affine_of(orientation)), str(path))
    np.testing.assert_allclose(volumes.load(path).affine, affine_of(orientation), atol=1e-9)
    volumes.assert_as_itk(path)


@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr", ".mha", ".mhd"])
def test_a_fourth_axis_holds_channels(volumes, tmp_path, affine_of, suffix):
    path = tmp_path / f"scan{suffix}"
    volumes.sitk.WriteImage(
        volumes.as_itk(np.stack([volumes.VOXELS, volumes.VOXELS + 1], axis=-1), affine_of("oblique")), str(path)
    )
    assert volumes.load(path, channels=2).shape == (2, *volumes.SHAPE)
    volumes.assert_as_itk(path)


@pytest.mark.parametrize("name", ["scan.nrrd", "scan.mha"])
def test_floats_that_are_no_numbers_are_refused(volumes, tmp_path, affine_of, name):
    voxels = volumes.VOXELS.astype(np.float32)
    voxels[1, 2, 3:5] = np.nan, np.inf
    volumes.sitk.WriteImage(volumes.as_itk(voxels, affine_of("RAS")), str(tmp_path / name))
    assert volumes.refusal(tmp_path / name).startswith(f"{name} has 2 voxels that are NaN, infinite or beyond float32")


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mgz"])
@pytest.mark.parametrize("kept", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_compressed_file_cut_short_is_refused(volumes, tmp_path, affine_of, suffix, kept):
    path = tmp_path / f"scan{suffix}"
    if suffix == ".mgz":
        nib.save(nib.MGHImage(volumes.VOXELS, affine_of("oblique")), path)
    else:
        volumes.sitk.WriteImage(volumes.as_itk(volumes.VOXELS, affine_of("oblique")), str(path), True)
    contents = path.read_bytes()
    path.write_bytes(contents[: int(kept * len(contents))])
    volumes.refusal(path)


def test_header_and_voxels_in_two_files_need_each_other(volumes, tmp_path, affine_of):
    for name, data in [("scan.nhdr", "scan.raw"), ("other.mhd", "other.raw")]:
        volumes.sitk.WriteImage(volumes.as_itk(volumes.VOXELS, affine_of("RAS")), str(tmp_path / name))
        (tmp_path / data).rename(tmp_path / "away")
        assert volumes.refusal(tmp_path / name).startswith(f"{name} has its voxels in {data}, which is not beside it")
    assert volumes.refusal(tmp_path / "none.mha") == "none.mha does not exist: check the path"
    (tmp_path / "folder.mha").mkdir()
    assert volumes.refusal(tmp_path / "folder.mha").startswith("folder.mha is a folder")


def test_several_files_become_channels(volumes, tmp_path, affine_of):
    paths = [tmp_path / "a.nrrd", tmp_path / "b.mha", tmp_path / "c.mha"]
    for path, orientation in zip(paths, ["oblique", "oblique", "RAS"], strict=True):
        volumes.sitk.WriteImage(volumes.as_itk(volumes.VOXELS, affine_of(orientation)), str(path))
    assert volumes.load(paths[:2], channels=2).shape == (2, *volumes.SHAPE)
    with pytest.raises(RuntimeError) as caught:
        volumes.load(paths[1:])
    assert "c.mha is not on the grid of b.mha" in str(caught.value.__cause__)


@pytest.mark.parametrize("suffix", [".mgh", ".mgz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32])
@pytest.mark.parametrize("channels", [(), (2,)])
def test_mgh_is_read_as_nibabel_does(volumes, tmp_path, affine_of, suffix, dtype, channels):
    path = tmp_path / f"scan{suffix}"
    voxels = np.random.default_rng(0).integers(0, 255, volumes.SHAPE + channels).astype(dtype)
    nib.save(nib.MGHImage(voxels, affine_of("oblique")), path)
    image = volumes.load(path)
    np.testing.assert_array_equal(image.numpy(), np.moveaxis(voxels.reshape(*volumes.SHAPE, -1), -1, 0))
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
        (30, np.float32(-1), "has a voxel size below zero (-1 x 1.5 x 2 mm)"),
        (42, np.float32(0.5), "has directions that are not of unit length"),
        (78, np.float32(np.nan), "has an affine with NaN"),
    ],
)
def test_mgh_in_doubt_is_refused(volumes, tmp_path, affine_of, position, value, message):
    path = tmp_path / "scan.mgh"
    nib.save(nib.MGHImage(np.abs(volumes.VOXELS) + np.int16(200), affine_of("RAS")), path)
    contents = bytearray(path.read_bytes())
    stored = np.array(value, value.dtype.newbyteorder(">")).tobytes()
    contents[position : position + len(stored)] = stored
    path.write_bytes(contents)
    assert volumes.refusal(path).startswith(f"scan.mgh {message}"), volumes.refusal(path)


@pytest.mark.parametrize("ending", ["nrrd", "nhdr", "mha", "mhd"])
def test_a_hippocampus_converted_by_simpleitk_is_the_same_scan(volumes, shared_data, tmp_path, ending):
    source = min(shared_data("task04_hippocampus").glob("imagesTr/*.nii.gz"))
    path = tmp_path / f"scan.{ending}"
    volumes.sitk.WriteImage(volumes.sitk.ReadImage(str(source)), str(path), True)
    np.testing.assert_array_equal(volumes.load(path).numpy(), volumes.load(source).numpy())
    np.testing.assert_allclose(volumes.load(path).affine, volumes.load(source).affine, atol=1e-4)


def test_a_copy_under_another_name_is_read_alike(volumes, tmp_path, affine_of):
    volumes.sitk.WriteImage(volumes.as_itk(volumes.VOXELS, affine_of("RAS")), str(tmp_path / "scan.mha"))
    shutil.copy(tmp_path / "scan.mha", tmp_path / "SCAN.MHA")
    np.testing.assert_array_equal(volumes.load(tmp_path / "SCAN.MHA")[0].numpy(), volumes.VOXELS)


ZEROS = gzip.compress(bytes(2**26)) * 64
"""A stream of 4 GiB in 4 MiB."""


@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.nii", "scan.nrrd", "scan.mgz"])
def test_a_stream_that_swells_beyond_what_its_header_announces_is_refused(
    volumes, write_volume, tmp_path, affine_of, name
):
    path = tmp_path / name
    if name.endswith(".nrrd"):
        write_volume(name, {"encoding": "gzip"}, gzip.compress(volumes.VOXELS.tobytes(order="F")) + ZEROS)
    else:
        image_class = nib.MGHImage if name.endswith(".mgz") else nib.Nifti1Image
        path.write_bytes(gzip.compress(image_class(volumes.VOXELS, affine_of("RAS")).to_bytes()) + ZEROS)
    assert volumes.refusal(path).startswith(f"{name} holds more voxels than its header says (14 x 12 x 9")
    tracemalloc.start()
    volumes.refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 2**27
    tracemalloc.stop()


def test_a_zlib_stream_that_swells_is_refused_too(volumes, write_volume):
    stream = zlib.compress(bytes(2**28))
    path = write_volume("scan.mha", {"CompressedData": "True"}, stream)
    assert volumes.refusal(path).startswith("scan.mha holds more voxels than its header says (14 x 12 x 9)")


def test_tags_may_follow_the_voxels_of_a_packed_mgh_file(volumes, tmp_path, affine_of):
    """FreeSurfer writes command lines and colour tables there."""
    contents = nib.MGHImage(volumes.VOXELS, affine_of("RAS")).to_bytes()
    tag = (3).to_bytes(4, "big") + (100_000).to_bytes(8, "big") + bytes(100_000)
    (tmp_path / "scan.mgz").write_bytes(gzip.compress(contents + tag))
    np.testing.assert_array_equal(volumes.load(tmp_path / "scan.mgz")[0].numpy(), volumes.VOXELS)
    (tmp_path / "junk.mgz").write_bytes(gzip.compress(contents + b"\xff" * 100_000))
    assert "holds more voxels than its header says" in volumes.refusal(tmp_path / "junk.mgz")


@pytest.mark.parametrize("sizes", [(10, 400, 100_000), (3, 1, 1)])
@pytest.mark.parametrize("name", ["scan.nii.gz", "scan.mgz"])
def test_a_stream_in_members_of_any_size_is_one(volumes, tmp_path, affine_of, name, sizes):
    """As bgzip, pigz and some archives write them, down to the header in pieces."""
    image_class = nib.MGHImage if name.endswith(".mgz") else nib.Nifti1Image
    contents, start, members = image_class(volumes.VOXELS, affine_of("RAS")).to_bytes(), 0, b""
    for size in (*sizes, len(contents)):
        members += gzip.compress(contents[start : start + size])
        start += size
    (tmp_path / name).write_bytes(members)
    np.testing.assert_array_equal(volumes.load(tmp_path / name)[0].numpy(), volumes.VOXELS)
