import pickle
from concurrent.futures import ThreadPoolExecutor

import monai
import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, Dataset, MetaTensor
from monai.transforms import Compose

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import LoadImaged


def test_hosts_take_it_for_monais():
    """MONAI Label looks for the class, MONAI Deploy for the class's name."""
    load = LoadImaged(keys="image")
    assert isinstance(load, monai.transforms.LoadImaged)
    assert type(load).__name__ == "LoadImaged"


def test_the_dictionary_of_a_server_passes_with_its_own_keys_untouched(write_nifti, labels):
    path = str(write_nifti())
    data = {"image": path, "image_path": path, "image_size": (1, 2), "label": None, "result_extension": ".nii.gz"}
    loaded = LoadImaged(keys="image", ensure_channel_first=True)(data)
    assert {key: value for key, value in loaded.items() if key != "image"} == {
        key: value for key, value in data.items() if key != "image"
    }
    assert isinstance(loaded["image"], MetaTensor)
    assert loaded["image"].dtype == torch.float32
    np.testing.assert_array_equal(loaded["image"][0].numpy(), labels)
    assert loaded["image"].meta["filename_or_obj"] == path
    assert data["image"] == path, "the caller's dictionary stays as it was"


def test_no_reader_of_monais_stands_behind():
    readers = LoadImaged(keys="image")._loader.readers
    assert all(type(reader).__module__.startswith("unet_bundle.io.") for reader in readers)


@pytest.mark.parametrize(
    ("channels", "found", "message"), [(2, 1, "1 channel, the model needs 2"), (1, 3, "3 channels, the")]
)
def test_another_channel_count_is_refused(write_nifti, channels, found, message):
    path = write_nifti("scan.nii", np.zeros((5, 6, 7, found), np.int16))
    with pytest.raises(InputError, match=rf"^scan\.nii has {message}"):
        LoadImaged(keys="image", channels=channels)({"image": path})
    assert LoadImaged(keys="image", channels=found)({"image": path})["image"].shape[0] == found


def test_each_key_may_have_its_own_channel_count(write_nifti):
    scan, label = write_nifti("scan.nii", np.zeros((5, 6, 7, 4), np.int16)), write_nifti("label.nii")
    load = LoadImaged(keys=["image", "label"], channels=[4, 1])
    assert load({"image": scan, "label": label})["label"].shape[0] == 1
    with pytest.raises(InputError, match=r"/label\.nii has 1 channel, the model needs 4"):
        load({"image": scan, "label": [label]} | {"image": label, "label": label})
    with pytest.raises(ConfigError, match="2 keys but 1 channel counts"):
        LoadImaged(keys=["image", "label"], channels=[1])


def test_missing_keys_are_the_callers_choice(write_nifti):
    data = {"image": str(write_nifti())}
    assert "label" not in LoadImaged(keys=["image", "label"], allow_missing_keys=True)(data)
    with pytest.raises(KeyError, match="label"):
        LoadImaged(keys=["image", "label"])(data)


def test_channels_stay_first():
    with pytest.raises(ConfigError, match="leave ensure_channel_first out"):
        LoadImaged(keys="image", ensure_channel_first=False)


def test_the_type_can_be_chosen(write_nifti, labels):
    image = LoadImaged(keys="label", dtype=np.uint8)({"label": write_nifti()})["label"]
    assert image.dtype == torch.uint8
    np.testing.assert_array_equal(image[0].numpy(), labels)


def test_voxels_may_be_changed_in_place_without_touching_the_next_load(write_nifti):
    """Also where MONAI has no reason to copy: one column of float32 is in any order."""
    for suffix in (".nii", ".nii.gz"):
        path = write_nifti(f"column{suffix}", np.ones((9, 1, 1), np.float32))
        load = LoadImaged(keys="image")
        load({"image": path})["image"].mul_(7)
        assert load({"image": path})["image"].max() == 1


def test_it_survives_pickling(write_nifti):
    load = pickle.loads(pickle.dumps(LoadImaged(keys="image", channels=1)))  # noqa: S301
    assert load({"image": write_nifti()})["image"].shape[0] == 1


def test_threads_do_not_mix_up_files(write_nifti):
    """`CacheDataset` loads in threads that share one transform."""
    paths = [str(write_nifti(f"case_{value}.nii.gz", np.full((30, 30, 30), value, np.int16))) for value in range(12)]
    load = LoadImaged(keys="image")
    with ThreadPoolExecutor(6) as pool:
        images = [loaded["image"] for loaded in pool.map(load, [{"image": path} for path in paths * 4])]
    for image, path in zip(images, paths * 4, strict=True):
        assert image.meta["filename_or_obj"] == path
        assert f"case_{int(image.max())}.nii.gz" in path


def test_a_refusal_names_its_own_file_among_threads(write_nifti):
    good = [{"image": str(write_nifti(f"good_{index}.nii.gz"))} for index in range(6)]
    bad = {"image": str(write_nifti("bad.nii.gz", np.full((5, 5, 5), np.nan, np.float32)))}
    with pytest.raises(RuntimeError) as caught:
        CacheDataset([*good, bad, *good], Compose([LoadImaged(keys="image")]), num_workers=4, progress=False)
    assert str(caught.value.__cause__).startswith("bad.nii.gz has 125 voxels")


def test_loader_workers_read_and_refuse(write_nifti):
    good = {"image": str(write_nifti("good.nii.gz"))}
    bad = {"image": str(write_nifti("bad.nii.gz", np.full((5, 5, 5), np.nan, np.float32)))}
    transform = Compose([LoadImaged(keys="image")])
    batches = list(DataLoader(Dataset([good, good], transform), batch_size=2, num_workers=1))
    assert batches[0]["image"].shape == (2, 1, 14, 12, 9)
    with pytest.raises(RuntimeError, match=r"bad\.nii\.gz has 125 voxels that are NaN, infinite or beyond float32"):
        list(DataLoader(Dataset([good, bad], transform), num_workers=1))


@pytest.mark.parametrize("broken", ["imagesTr", "labelsTr"])
def test_of_a_labelled_case_messages_say_which_of_its_files_is_meant(broken, phantom_data, tmp_path):
    case = {}
    for key, folder in (("image", "imagesTr"), ("label", "labelsTr")):
        path = tmp_path / folder / "phantom_001.nii.gz"
        path.parent.mkdir()
        contents = (phantom_data / folder / path.name).read_bytes()
        path.write_bytes(contents[:1000] if folder == broken else contents)
        case[key] = str(path)
    with pytest.raises(RuntimeError) as raised:
        Compose([LoadImaged(["image", "label"])])(case)
    assert str(raised.value.__cause__).startswith(f"{broken}/phantom_001.nii.gz ")


def test_a_server_may_ask_for_metadata_beside_the_image(write_nifti, labels):
    """MONAI Label sets ``image_only`` on the loader that a bundle brings."""
    load = LoadImaged("image")
    load._loader.image_only = False
    loaded = load({"image": write_nifti()})
    np.testing.assert_array_equal(loaded["image"][0].numpy(), labels)
    np.testing.assert_array_equal(loaded["image_meta_dict"]["affine"], loaded["image"].affine)
