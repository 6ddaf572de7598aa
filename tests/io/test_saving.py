import gzip
import pickle

import monai
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader, Dataset, MetaTensor, decollate_batch

from unet_bundle.errors import ConfigError
from unet_bundle.io import LoadImaged, NiftiWriter, SaveImaged, find_images, output_name

GEOMETRY = [
    *["qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"],
    *["srow_x", "srow_y", "srow_z", "xyzt_units"],
]

INPUTS = {
    "RAS": {},
    "LAS": {"affine": "LAS"},
    "LPS": {"affine": "LPS"},
    "PSR": {"affine": "PSR"},
    "oblique": {"affine": "oblique"},
    "big_endian": {"affine": "PSR", "endianness": ">"},
    "float32": {"dtype": np.float32},
    "nifti2": {"affine": "oblique", "image_class": nib.Nifti2Image},
    "nifti2_big_endian": {"affine": "oblique", "image_class": nib.Nifti2Image, "endianness": ">"},
    "sform_only": {"affine": "oblique", "qform": (None, 0)},
    "sform_aligned": {"affine": "LAS", "qform": (None, 0), "sform_code": 2},
    "qform_only": {"affine": "oblique", "sform": (None, 0)},
    "other_codes": {"affine": "LPS", "sform_code": 4, "qform_code": 2},
    "no_units": {"xyzt_units": 0},
    "with_time": {"xyzt_units": 10, "toffset": 3.0},
    "trailing_axis": {"trailing": (1,)},
    "trailing_axes": {"trailing": (1, 1)},
}
PIPELINE = {
    "spacing": None,
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "unet_bundle.io.LoadImaged", "keys": ["image", "label"], "channels": 1, "_disabled_": False},
            {"_target_": "Orientationd", "keys": ["image", "label"], "axcodes": "RAS", "labels": None},
            {
                "_target_": "unet_bundle.transforms.ResampleToSpacingd",
                "keys": ["image", "label"],
                "spacing": "@spacing",
                "mode": ["bilinear", "nearest"],
            },
            {
                "_target_": "unet_bundle.transforms.NormalizeChannelsd",
                "keys": "image",
                "schemes": [{"scheme": "zscore"}],
            },
        ],
    },
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {
                "_target_": "Invertd",
                "keys": "pred",
                "transform": "@preprocessing",
                "orig_keys": "image",
                "nearest_interp": False,
            },
            {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
            {"_target_": "unet_bundle.io.SaveImaged", "keys": "pred", "output_dir": "@output_dir"},
        ],
    },
}


def run(path, output_dir, spacing, workers=0):
    """Inference as the evaluator does it, but for a network that knows the answer: the label as one-hot scores."""
    parser = ConfigParser({**PIPELINE, "spacing": list(spacing), "output_dir": str(output_dir)})
    preprocessing = parser.get_parsed_content("preprocessing")
    data = [{"image": str(path), "label": str(path), "image_path": "a string of a server"}]
    for batch in DataLoader(Dataset(data, preprocessing), batch_size=1, num_workers=workers):
        batch["pred"] = monai.networks.one_hot(batch["label"], num_classes=3) + 0 * batch["image"]
        for item in decollate_batch(batch):
            parser.get_parsed_content("postprocessing")(item)
    (written,) = output_dir.iterdir()
    return written


def make_input(write_nifti, labels, kind):
    options = dict(INPUTS[kind])
    data = labels.astype(options.pop("dtype", np.int16)).reshape(labels.shape + options.pop("trailing", ()))
    return write_nifti(f"{kind}.nii", data, **options)


def assert_same_grid(written, path):
    result, source = nib.load(written), nib.load(path)
    assert type(result) is type(source)
    assert result.shape == source.shape
    np.testing.assert_array_equal(result.affine, source.affine)
    for field in GEOMETRY:
        np.testing.assert_array_equal(result.header[field], source.header[field], err_msg=field)
    np.testing.assert_array_equal(result.header["pixdim"][:4], source.header["pixdim"][:4])


@pytest.mark.parametrize("kind", INPUTS)
def test_a_label_map_comes_back_bit_for_bit_on_the_grid_of_its_input(write_nifti, labels, tmp_path, kind):
    path = make_input(write_nifti, labels, kind)
    written = run(path, tmp_path / "out", spacing=spacing_in_ras(path))
    assert written.name == f"{kind}_seg.nii.gz"
    assert_same_grid(written, path)
    assert nib.load(written).get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(nib.load(written).dataobj), np.asarray(nib.load(path).dataobj))


@pytest.mark.parametrize("kind", ["RAS", "PSR", "oblique", "big_endian", "nifti2", "qform_only", "trailing_axis"])
@pytest.mark.parametrize("spacing", [(0.6, 0.6, 0.6), (1.3, 0.9, 2.4)])
def test_a_resampled_label_map_comes_back_to_the_grid_of_its_input(write_nifti, labels, tmp_path, kind, spacing):
    path = make_input(write_nifti, labels, kind)
    written = run(path, tmp_path / "out", spacing)
    assert_same_grid(written, path)
    result, truth = np.asarray(nib.load(written).dataobj).squeeze(), labels
    for label in (1, 2):
        dice = 2 * np.sum((result == label) & (truth == label)) / (np.sum(result == label) + np.sum(truth == label))
        assert dice > (0.97 if max(spacing) < 1 else 0.8), f"label {label} has moved: Dice {dice:.3f}"


def test_the_same_from_loader_workers(write_nifti, labels, tmp_path):
    path = make_input(write_nifti, labels, "oblique")
    written = run(path, tmp_path / "out", (0.7, 0.7, 0.7), workers=1)
    assert_same_grid(written, path)


@pytest.mark.parametrize(
    "name",
    [
        "spinalcord_mr/t2/t2_seg-manual.nii.gz",
        "totalsegmentator_examples/aorta/aorta_seg.nii.gz",
        "task04_hippocampus/labelsTr/hippocampus_003.nii.gz",
    ],
)
def test_real_label_maps_come_back_bit_for_bit(shared_data, tmp_path, name):
    folder, _, rest = name.partition("/")
    path = shared_data(folder) / rest
    written = run(path, tmp_path / "out", spacing_in_ras(path))
    assert_same_grid(written, path)
    np.testing.assert_array_equal(np.asarray(nib.load(written).dataobj), np.asarray(nib.load(path).dataobj))


def spacing_in_ras(path):
    return nib.affines.voxel_sizes(nib.as_closest_canonical(nib.load(path)).affine).tolist()


def test_channels_of_the_scan_are_no_axis_of_its_label_map(write_nifti, labels, tmp_path):
    path = write_nifti("scan.nii.gz", np.stack([labels, labels, labels], -1).astype(np.int16), "LPS")
    image = LoadImaged(keys="image", channels=3)({"image": path})["image"]
    SaveImaged(keys="pred", output_dir=tmp_path / "out")({"pred": image[:1]})
    result = nib.load(tmp_path / "out" / "scan_seg.nii.gz")
    assert result.shape == labels.shape
    np.testing.assert_array_equal(result.affine, nib.load(path).affine)
    np.testing.assert_array_equal(np.asarray(result.dataobj), labels)


@pytest.mark.parametrize("kind", ["oblique", "trailing_axis", "nifti2"])
def test_regions_are_channels_of_one_file_on_the_grid_of_the_scan(write_nifti, labels, tmp_path, kind):
    path = make_input(write_nifti, labels, kind)
    image = LoadImaged(keys="image")({"image": path})["image"]
    regions = torch.cat([image > 0, image == 2]).to(torch.uint8)
    SaveImaged(keys="pred", output_dir=tmp_path / "out", region_channels=True)({"pred": regions})
    result, source = nib.load(tmp_path / "out" / f"{kind}_seg.nii.gz"), nib.load(path)
    assert result.shape == (*labels.shape, 2)
    for field in GEOMETRY:
        np.testing.assert_array_equal(result.header[field], source.header[field])
    np.testing.assert_allclose(result.header["pixdim"][:4], source.header["pixdim"][:4])
    np.testing.assert_array_equal(np.asarray(result.dataobj), np.stack([labels > 0, labels == 2], axis=-1))
    again = LoadImaged(keys="pred", channels=2)({"pred": tmp_path / "out" / f"{kind}_seg.nii.gz"})["pred"]
    assert torch.equal(again.as_tensor(), regions.as_tensor().float())
    assert torch.allclose(again.affine, image.affine)


@pytest.mark.parametrize("output_format", ["nrrd", "seg.nrrd"])
def test_regions_as_channels_are_refused_by_other_formats(write_nifti, tmp_path, output_format):
    image = LoadImaged(keys="pred")({"pred": write_nifti()})["pred"]
    save = SaveImaged(keys="pred", output_dir=tmp_path / "out", output_format=output_format, region_channels=True)
    with pytest.raises(ConfigError, match=r"region_channels needs NIfTI.*set output_format to 'nifti'"):
        save({"pred": torch.cat([image > 0, image > 1])})
    assert not list((tmp_path / "out").iterdir())


def test_more_than_256_classes_need_uint16(write_nifti, labels, tmp_path):
    image = LoadImaged(keys="pred")({"pred": write_nifti(data=labels.astype(np.int16) * 200)})
    with pytest.raises(ConfigError, match=r"label values 0.0 to 400.0 do not fit uint8: set SaveImaged's dtype"):
        SaveImaged(keys="pred", output_dir=tmp_path / "out")(image)
    assert not list((tmp_path / "out").iterdir()), "nothing half-written"
    SaveImaged(keys="pred", output_dir=tmp_path / "out", dtype="uint16")(image)
    result = nib.load(tmp_path / "out" / "case_001_seg.nii.gz")
    assert result.get_data_dtype() == np.uint16
    assert np.asarray(result.dataobj).max() == 400


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint32"])
def test_other_types_are_refused_at_once(tmp_path, dtype):
    with pytest.raises(ConfigError, match=f"dtype {dtype}: label maps are uint8 or uint16"):
        SaveImaged(keys="pred", output_dir=tmp_path, dtype=dtype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda pred: pred + 0.25, "whole numbers only"),
        (lambda pred: pred * float("nan"), "do not fit uint8"),
        (lambda pred: pred - 1, "do not fit uint8"),
        (lambda pred: torch.cat([pred, pred]), "1 channel, got 2: put AsDiscreted"),
        (
            lambda pred: pred[:, 1:],
            r"result for case_001.nii.gz is not on its grid \(shape 13 x 12 x 9 against 14 x 12 x 9\)",
        ),
    ],
)
def test_what_is_no_label_map_of_the_scan_is_refused(write_nifti, tmp_path, change, message):
    image = LoadImaged(keys="pred")({"pred": write_nifti()})["pred"]
    with pytest.raises(ConfigError, match=message):
        SaveImaged(keys="pred", output_dir=tmp_path / "out")({"pred": change(image)})
    assert not list((tmp_path / "out").iterdir()), "nothing half-written"


def test_a_label_map_that_was_not_inverted_is_refused_even_if_its_shape_fits(write_nifti, tmp_path):
    image = LoadImaged(keys="pred")({"pred": write_nifti(affine="LAS")})
    turned = monai.transforms.Orientationd(keys="pred", axcodes="RAS", labels=None)(image)
    with pytest.raises(ConfigError, match=r"not on its grid \(axes RAS against LAS\): put Invertd before SaveImaged"):
        SaveImaged(keys="pred", output_dir=tmp_path)(turned)


def test_the_scan_itself_is_never_replaced(write_nifti):
    path = write_nifti("case.nii.gz")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match=r"case\.nii\.gz would replace the scan itself"):
        SaveImaged(keys="pred", output_dir=path.parent, output_postfix="")(LoadImaged(keys="pred")({"pred": path}))
    assert path.read_bytes() == before


def test_images_made_in_memory_are_saved_by_their_affine(labels, affine_of, tmp_path):
    for name in ("LPS", "oblique"):
        image = MetaTensor(torch.tensor(labels)[None], affine=torch.tensor(affine_of(name)))
        SaveImaged(keys="pred", output_dir=tmp_path, output_postfix=name)({"pred": image})
        result = nib.load(tmp_path / f"0_{name}.nii.gz")
        np.testing.assert_allclose(result.affine, affine_of(name), atol=1e-5)
        np.testing.assert_array_equal(np.asarray(result.dataobj), labels)
        assert LoadImaged(keys="image")({"image": tmp_path / f"0_{name}.nii.gz"})["image"].shape == (1, *labels.shape)
    SaveImaged(keys="pred", output_dir=tmp_path, output_postfix="plain")({"pred": torch.tensor(labels)[None]})
    np.testing.assert_array_equal(nib.load(tmp_path / "0_plain.nii.gz").affine, np.eye(4))


def test_a_sheared_image_made_in_memory_can_be_read_again(labels, tmp_path):
    """A quaternion cannot shear: only the sform says it."""
    affine = np.eye(4)
    affine[1, 2] = 0.3
    image = MetaTensor(torch.tensor(labels)[None], affine=torch.tensor(affine))
    SaveImaged(keys="pred", output_dir=tmp_path)({"pred": image})
    np.testing.assert_allclose(
        LoadImaged(keys="image")({"image": tmp_path / "0_seg.nii.gz"})["image"].affine, affine, atol=1e-6
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.bool])
def test_any_type_of_tensor_is_saved(write_nifti, labels, tmp_path, dtype):
    binary = np.minimum(labels, 1)
    image = LoadImaged(keys="pred")({"pred": write_nifti(data=binary)})["pred"]
    SaveImaged(keys="pred", output_dir=tmp_path / "out")({"pred": image.to(dtype)})
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "out" / "case_001_seg.nii.gz").dataobj), binary)


def test_the_same_label_map_gives_the_same_bytes(write_nifti, tmp_path):
    image = LoadImaged(keys="pred")({"pred": write_nifti()})
    for folder in ("a", "b"):
        SaveImaged(keys="pred", output_dir=tmp_path / folder)(image)
    contents = (tmp_path / "a" / "case_001_seg.nii.gz").read_bytes()
    assert contents == (tmp_path / "b" / "case_001_seg.nii.gz").read_bytes()
    assert b"case_001" not in gzip.decompress(contents)[:352]


def test_a_write_that_fails_leaves_nothing_and_keeps_what_was_there(write_nifti, tmp_path, monkeypatch):
    image = LoadImaged(keys="pred")({"pred": write_nifti()})
    save = SaveImaged(keys="pred", output_dir=tmp_path / "out")
    save(image)
    before = (tmp_path / "out" / "case_001_seg.nii.gz").read_bytes()

    def full_disk(self, contents):
        self.open("wb").write(contents[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(image)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["case_001_seg.nii.gz"]
    assert (tmp_path / "out" / "case_001_seg.nii.gz").read_bytes() == before


def test_results_are_found_again_by_name(write_nifti, tmp_path):
    image = LoadImaged(keys="pred")({"pred": write_nifti("a.b.nii")})
    SaveImaged(keys="pred", output_dir=str(tmp_path / "deep" / "out"))(image)
    (found,) = find_images(tmp_path / "deep" / "out")
    assert found["image"].endswith(output_name("x/a.b.nii"))
    assert output_name("a.nii.gz", "") == "a.nii.gz"


def test_hosts_take_it_for_monais(tmp_path):
    save = pickle.loads(pickle.dumps(SaveImaged(keys="pred", output_dir=tmp_path)))  # noqa: S301
    assert isinstance(save, monai.transforms.SaveImaged)
    assert type(save).__name__ == "SaveImaged"


def test_the_writer_stands_alone_too(write_nifti, tmp_path):
    """As a writer of MONAI's own `SaveImage`, for those who build their own transforms."""
    path = write_nifti(affine="oblique")
    image = LoadImaged(keys="image")({"image": path})["image"]
    monai.transforms.SaveImage(
        output_dir=tmp_path / "out", writer=NiftiWriter, output_dtype=np.uint8, resample=False, separate_folder=False
    )(image)
    assert_same_grid(tmp_path / "out" / "case_001_trans.nii.gz", path)
