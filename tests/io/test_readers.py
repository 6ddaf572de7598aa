"""What is refused, and what is read, always through a config: so no reader of MONAI's may stand behind ours."""

import gzip
import re
import shutil
from pathlib import Path

import monai
import nibabel as nib
import numpy as np
import pytest
from monai.bundle import ConfigParser

from unet_bundle.errors import InputError
from unet_bundle.geometry import spacing_of
from unet_bundle.io import NiftiReader

SHAPE = (14, 12, 9)
LABELS = np.zeros(SHAPE, np.uint8)
LABELS[2:6, 3:6, 1:5] = 2
RAS = np.diag([1.0, 1.5, 2.0, 1.0])
LAS = np.diag([-1.0, 1.5, 2.0, 1.0])
OBLIQUE = nib.affines.from_matvec(nib.eulerangles.euler2mat(z=0.2, y=-0.1, x=0.3) @ RAS[:3, :3], [40.3, -7.1, 11.9])


def shifted(distance):
    """The affine `RAS`, so many millimetres to the right."""
    return RAS + np.pad([[float(distance)]], ((0, 3), (3, 0)))


def load(path, **arguments):
    """Load one file by a transform list that a bundle's config might hold."""
    transforms = [{"_target_": "unet_bundle.io.LoadImaged", "keys": "image", **arguments}]
    parser = ConfigParser({"preprocessing": {"_target_": "Compose", "transforms": transforms}})
    images = path if isinstance(path, list) else str(path)
    return parser.get_parsed_content("preprocessing")({"image": images, "image_path": "a string"})["image"]


def refusal(path, **arguments):
    """The one sentence that a load is refused with; anything else that happens is an error."""
    with pytest.raises(RuntimeError, match="applying transform") as caught:
        load(path, **arguments)
    cause = caught.value.__cause__
    assert isinstance(cause, InputError), repr(cause)
    sentence = str(cause)
    assert "\n" not in sentence
    assert str(Path(path).parent) not in sentence, "the folder may be a patient's"
    return sentence


@pytest.mark.parametrize("image_class", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_voxels_and_affine_are_those_of_the_file(write_nifti, image_class, endianness, dtype, suffix):
    data = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)
    path = write_nifti(f"scan{suffix}", data, OBLIQUE, image_class, endianness)
    image = load(path)
    assert image.shape == (1, *SHAPE)
    np.testing.assert_array_equal(image[0].numpy(), data.astype(np.float32))
    np.testing.assert_array_equal(image.affine, nib.load(path).affine)
    np.testing.assert_array_equal(image.meta["original_affine"], nib.load(path).affine)


def test_scaled_integers_are_unscaled(write_nifti):
    raw = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE, order="F")
    path = write_nifti("scan.nii", raw)
    contents = bytearray(path.read_bytes())
    contents[112:120] = np.array([2.5, -1024], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(contents)
    np.testing.assert_allclose(load(path)[0].numpy(), raw * 2.5 - 1024)


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.int64])
def test_whole_numbers_that_float32_would_round_are_refused(write_nifti, dtype):
    voxels = LABELS.astype(dtype)
    voxels[0, 0, 0] = 2**24
    assert int(load(write_nifti("exact.nii", voxels))[0, 0, 0, 0]) == 2**24
    voxels[0, 0, 0] += 1
    assert "holds the whole number 16777217, which float32 rounds" in refusal(write_nifti("rounded.nii", voxels))


@pytest.mark.parametrize("trailing", [(1,), (1, 1), (1, 1, 1)])
def test_trailing_singleton_axes_are_dropped(write_nifti, trailing):
    assert load(write_nifti(data=LABELS.reshape(SHAPE + trailing))).shape == (1, *SHAPE)


@pytest.mark.parametrize("shape", [(*SHAPE, 3), (*SHAPE, 1, 3)])
def test_a_fourth_or_fifth_axis_holds_channels(write_nifti, shape):
    data = np.random.default_rng(0).integers(0, 100, shape).astype(np.int16)
    image = load(write_nifti(data=data), channels=3)
    assert image.shape == (3, *SHAPE)
    np.testing.assert_array_equal(np.moveaxis(image.numpy(), 0, -1), data.reshape(*SHAPE, 3))


def test_single_slices_stay_volumes_and_planes_stay_planes(write_nifti):
    assert load(write_nifti(data=np.ones((6, 5, 1), np.uint8))).shape == (1, 6, 5, 1)
    assert load(write_nifti("plane.nii", data=np.ones((6, 5), np.uint8))).shape == (1, 6, 5)


@pytest.mark.parametrize("turn", [[0, 2, 1], [2, 1, 0]])
def test_a_plane_that_is_not_axial_is_refused(write_nifti, turn):
    """Two axes cannot say where the third points; as a volume of one slice the same plane is read."""
    affine = np.diag([1.0, 1.5, 2.0, 1.0])[[*turn, 3]]
    line = refusal(write_nifti("plane.nii", data=np.ones((6, 5), np.uint8), affine=affine))
    assert line.startswith("plane.nii is a plane that is not axial, ")
    assert line.endswith(": save it as a volume of one slice")
    assert load(write_nifti(data=np.ones((6, 5, 1), np.uint8), affine=affine)).shape == (1, 6, 5, 1)


def test_labels_stored_as_whole_floats_load_as_they_are(write_nifti):
    np.testing.assert_array_equal(load(write_nifti(data=LABELS.astype(np.float32)))[0].numpy(), LABELS)


def test_one_geometry_is_enough(write_nifti):
    for name, forms in {
        "sform_only.nii": {"sform": (OBLIQUE, 2), "qform": (None, 0)},
        "qform_only.nii": {"sform": (None, 0), "qform": (OBLIQUE, 1)},
    }.items():
        image = load(write_nifti(name, affine=OBLIQUE, **forms))
        np.testing.assert_allclose(image.affine, OBLIQUE, atol=1e-4)


def test_a_wrong_suffix_for_compression_is_seen_through(write_nifti, tmp_path):
    path = write_nifti("scan.nii", LABELS)
    path.with_name("other.nii").write_bytes(gzip.compress(path.read_bytes()))
    path.with_name("third.nii.gz").write_bytes(path.read_bytes())
    for name in ["other.nii", "third.nii.gz"]:
        np.testing.assert_array_equal(load(tmp_path / name)[0].numpy(), LABELS)


def test_several_files_become_channels(write_nifti):
    paths = [
        write_nifti("a.nii", LABELS, RAS),
        write_nifti("b.nii.gz", 2 * LABELS, affine=shifted(0.01)),
        write_nifti("c.nii", 3 * LABELS, RAS),
    ]
    image = load([str(path) for path in paths], channels=3)
    for channel in range(3):
        np.testing.assert_array_equal(image[channel].numpy(), (channel + 1) * LABELS)
    np.testing.assert_array_equal(image.affine, RAS)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"affine": LAS}, "b.nii is not on the grid of a.nii (axes LAS against RAS): resample"),
        ({"data": LABELS[:8]}, "b.nii is not on the grid of a.nii (shape 8 x 12 x 9 against 14 x 12 x 9)"),
        ({"data": np.zeros((*SHAPE, 2), np.uint8)}, "b.nii has shape 14 x 12 x 9 x 2"),
    ],
)
def test_files_that_are_no_channels_of_one_scan_are_refused(write_nifti, second, message):
    paths = [str(write_nifti("a.nii", affine=RAS)), str(write_nifti("b.nii", **{"affine": RAS, **second}))]
    with pytest.raises(RuntimeError) as caught:
        load(paths)
    assert message in str(caught.value.__cause__)


REFUSED = {
    "no_geometry": ({"sform": (None, 0), "qform": (None, 0)}, "has neither sform nor qform"),
    "forms_disagree": ({"sform": (LAS, 1)}, "has a sform and a qform that disagree (axes LAS against RAS)"),
    "forms_shifted": (
        {"sform": (shifted(2), 1)},
        "has a sform and a qform that disagree (corners up to 2 mm apart)",
    ),
    "pixel_sizes": (
        {"qform": (None, 0), "pixdim": [1, 1, 1.5, 5, 0, 0, 0, 0]},
        "has pixel sizes of 1 x 1.5 x 5 mm that disagree with its sform (1 x 1.5 x 2 mm)",
    ),
    "metres": ({"units": "meter"}, "says that its voxel sizes are in metres"),
    "micrometres": ({"units": "micron"}, "says that its voxel sizes are in micrometres"),
    "spacing": ({"affine": np.diag([500.0, 1, 1, 1])}, "has a voxel size of 500 x 1 x 1 mm"),
    "nan": ({"data": np.full(SHAPE, np.nan, np.float32)}, "has 1512 voxels that are NaN, infinite or beyond float32"),
    "infinite": ({"data": np.where(LABELS == 2, -np.inf, 1.0)}, "has 48 voxels that are NaN, infinite"),
    "beyond": ({"data": np.where(LABELS == 2, 1e300, 1.0)}, "has 48 voxels that are NaN, infinite or beyond"),
    "complex": ({"data": LABELS.astype(np.complex64)}, "has voxels of type complex64"),
    "rgb": ({"data": np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])}, "has RGB colour voxels"),
    "five_axes": ({"data": np.zeros((4, 4, 4, 2, 2), np.uint8)}, "has shape 4 x 4 x 4 x 2 x 2, but only one axis may"),
    "line": ({"data": np.zeros(4, np.uint8)}, "has shape 4, so it holds no image"),
    "empty": ({"data": np.zeros((4, 0, 4), np.uint8)}, "has shape 4 x 0 x 4, so it holds no image"),
    "fewer_slices": ({"dim": [3, 14, 12, 3, 1, 1, 1, 1]}, "holds more voxels than its header says (14 x 12 x 3)"),
    "more_slices": ({"dim": [3, 14, 12, 10, 1, 1, 1, 1]}, "is damaged or cut short, its voxels cannot be read"),
    "bad_qform": ({"quatern_b": np.float32(3)}, "has a damaged qform"),
    "nan_qform": ({"qoffset_x": np.nan}, "has a sform and a qform that disagree (an affine with NaN"),
    "unknown_code": ({"sform_code": 77}, "has a qform or sform code that NIfTI does not know"),
    "nan_sform": ({"srow_x": np.full(4, np.nan, np.float32)}, "has an affine with NaN or infinite entries"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("fault", REFUSED)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_what_could_go_wrong_is_refused(write_nifti, fault, suffix):
    header, message = REFUSED[fault]
    sentence = refusal(write_nifti(f"{fault}{suffix}", **{"data": LABELS, "affine": RAS, **header}))
    assert sentence.startswith(f"{fault}{suffix} {message}"), sentence
    assert ": " in sentence, "each refusal says what to do"


def test_monai_alone_would_have_guessed(write_nifti):
    """Why we own this: a sform that someone set is replaced by a qform that nobody set."""
    path = write_nifti(sform=(OBLIQUE, 2), qform=(None, 0), pixdim=[1, 1, 1, 1, 0, 0, 0, 0])
    guessed = monai.transforms.LoadImage(image_only=True)(path).affine
    assert not np.allclose(guessed, OBLIQUE, atol=0.1)
    assert "disagree" in refusal(path)


@pytest.mark.parametrize("kept", [0, 3, 200, 348, 352, 353, 900])
def test_a_file_cut_short_is_refused_in_one_line(write_nifti, kept):
    path = write_nifti("scan.nii")
    assert path.stat().st_size > kept
    path.write_bytes(path.read_bytes()[:kept])
    assert re.match("scan.nii (is|has)( a)? (damaged|not a NIfTI)", refusal(path))


@pytest.mark.parametrize("kept", [0.05, 0.3, 0.8, 0.99])
def test_a_compressed_file_cut_short_is_refused_in_one_line(write_nifti, kept):
    data = np.random.default_rng(0).integers(0, 255, (30, 30, 30)).astype(np.uint8)
    path = write_nifti("scan.nii.gz", data)
    contents = path.read_bytes()
    path.write_bytes(contents[: int(kept * len(contents))])
    assert refusal(path).startswith("scan.nii.gz is damaged or cut short, its voxels cannot be read: get a fresh copy")


def test_a_changed_voxel_in_a_compressed_file_is_found_by_its_checksum(write_nifti):
    """MONAI and nibabel stop before the checksum and would load the wrong voxels."""
    path = write_nifti("scan.nii.gz", np.random.default_rng(0).integers(0, 255, (30, 30, 30)).astype(np.uint8))
    contents = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), 0))  # level 0: voxels stand as they are
    contents[20_000] ^= 0xFF
    path.write_bytes(contents)
    monai.transforms.LoadImage()(path)
    assert "damaged" in refusal(path)


def test_what_is_no_nifti_is_refused(tmp_path):
    (tmp_path / "text.nii").write_text("not a scan, but some words that are longer than a header" * 20)
    assert refusal(tmp_path / "text.nii").startswith("text.nii is not a NIfTI file")
    assert refusal(tmp_path / "none.nii") == "none.nii does not exist: check the path"
    (tmp_path / "folder.nii").mkdir()
    assert refusal(tmp_path / "folder.nii").startswith("folder.nii is a folder")


@pytest.mark.parametrize("name", ["scan.mnc", "scan.npy", "scan", "scan.nii.bz2", "scan.nrrd.gz"])
def test_formats_of_other_readers_are_refused_by_name(write_nifti, name):
    """MONAI's default readers know these endings: none of them may answer."""
    path = write_nifti().with_name(name)
    np.save(path.open("wb"), LABELS)
    assert refusal(path).startswith(f"{name} is in no format that is read: convert it to NIfTI (.nii, .nii.gz, .hdr")


def test_damage_anywhere_is_refused_or_harmless(write_nifti):
    """Byte flips from a fixed seed: refused in one line, or read with the geometry that nibabel sees."""
    rng = np.random.default_rng(0)
    path = write_nifti("scan.nii", affine=OBLIQUE)
    contents = path.read_bytes()
    causes = []
    for _ in range(300):
        damaged = bytearray(contents)
        damaged[rng.integers(352)] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            image = load(path)
        except RuntimeError as error:
            causes.append(error.__cause__)
        else:
            np.testing.assert_array_equal(image.affine, nib.load(path).affine)
    assert 50 < len(causes) < 250
    assert all(isinstance(cause, InputError) for cause in causes), causes


AWKWARD = {
    "nibabel/anatomical.nii": ((1, 33, 41, 25), (2, 2, 2)),
    "nibabel/example4d.nii.gz": ((2, 128, 96, 24), (2, 2, 2.2)),
    "nibabel/resampled_anat_moved.nii": (
        "has 153 voxels that are NaN, infinite or beyond float32: replace them by numbers"
    ),
    "nibabel/standard.nii.gz": ((1, 4, 5, 7), (1, 3, 2)),
    "nibabel/test.mgz": (
        "has directions that are not of unit length, so its voxel size of 1 x 1 x 1 mm is in doubt: "
        "save it again from its source"
    ),
    "totalsegmentator/spine_report_rgb.nii.gz": (
        "has RGB colour voxels, not intensities: export the scan in grey values"
    ),
}
"""What is read, with shape and spacing in mm, and what is refused, with the reason."""


def test_every_awkward_file_has_its_verdict(shared_data):
    folder = shared_data("nifti_awkward")
    files = {path.relative_to(folder).as_posix() for path in folder.glob("*/*") if path.parent.name != "licences"}
    assert files == AWKWARD.keys()


@pytest.mark.parametrize("name", AWKWARD)
def test_awkward_files_are_read_right_or_refused_with_a_reason(shared_data, name):
    path, verdict = shared_data("nifti_awkward") / name, AWKWARD[name]
    if isinstance(verdict, str):
        assert refusal(path) == f"{path.name} {verdict}"
        return
    image, reference = load(path), nib.load(path)
    assert image.shape == verdict[0]
    np.testing.assert_allclose(spacing_of(image.affine), verdict[1], atol=1e-4)
    np.testing.assert_array_equal(image.affine, reference.affine)
    expected = reference.get_fdata(dtype=np.float32)
    np.testing.assert_array_equal(image.numpy(), np.moveaxis(expected, -1, 0) if expected.ndim == 4 else expected[None])


@pytest.mark.parametrize("name", ["spinalcord_mr", "totalsegmentator_examples", "dicom_series"])
def test_real_files_are_read_as_nibabel_reads_them(shared_data, name):
    paths = sorted(shared_data(name).rglob("*.nii*"))
    assert paths
    for path in paths:
        image, reference = load(path), nib.load(path)
        np.testing.assert_array_equal(image.affine, reference.affine)
        expected = np.asarray(reference.dataobj, np.float32)
        np.testing.assert_array_equal(image.numpy(), np.moveaxis(expected.reshape(*expected.shape[:3], -1), -1, 0))


def test_every_hippocampus_is_read(shared_data):
    paths = sorted(shared_data("task04_hippocampus").glob("*Tr/*.nii.gz"))
    assert len(paths) == 400
    for path in paths[::10]:
        assert load(path, channels=1).ndim == 4


def test_the_reader_stands_alone_too(write_nifti):
    """As a reader of MONAI's own `LoadImage`, for those who build their own transforms."""
    path = write_nifti(data=LABELS)
    image = monai.transforms.LoadImage(reader=NiftiReader)(path)
    np.testing.assert_array_equal(image.numpy(), LABELS)


def test_an_unreadable_file_is_refused(write_nifti, tmp_path):
    path = write_nifti(data=LABELS)
    link = tmp_path / "loop.nii"
    link.symlink_to(link)
    assert refusal(link).startswith("loop.nii cannot be read (")
    shutil.copy(path, tmp_path / "copy.nii.gz")
    np.testing.assert_array_equal(load(tmp_path / "copy.nii.gz")[0].numpy(), LABELS)
