import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Invertd, Orientationd
from PIL import Image

from unet_bundle.errors import ConfigError
from unet_bundle.io import LoadImaged, SaveImaged, output_name
from unet_bundle.transforms import ResampleToSpacingd

SEEN = np.zeros((7, 12), np.uint8)
SEEN[1:3, 2:9], SEEN[5, 11] = 1, 2


@pytest.mark.parametrize("name", ["cell.png", "cell.tif"])
@pytest.mark.parametrize("spacing", [[1.0, 1.0], [0.5, 0.5]])
def test_a_label_map_lies_pixel_for_pixel_over_its_picture(tmp_path, name, spacing):
    source = tmp_path / name
    if name.endswith("png"):
        Image.fromarray(SEEN * 100).save(source)
    else:
        tifffile.imwrite(source, SEEN * 100)
    load = Compose(
        [
            LoadImaged(keys="image", channels=1),
            Orientationd(keys="image", axcodes="RA", labels=None),
            ResampleToSpacingd(keys="image", spacing=spacing, mode="nearest"),
        ]
    )
    data = load({"image": str(source)})
    data["pred"] = MetaTensor((data["image"] / 100).as_subclass(torch.Tensor), meta=data["image"].meta)
    data = Invertd(keys="pred", transform=load, orig_keys="image", nearest_interp=True)(data)
    SaveImaged(keys="pred", output_dir=tmp_path / "out")(data)
    (written,) = (tmp_path / "out").iterdir()
    assert written.name == "cell_seg.png" == output_name(source)
    np.testing.assert_array_equal(np.asarray(Image.open(written)), SEEN)


def test_many_classes_take_16_bits(tmp_path):
    Image.fromarray(SEEN).save(tmp_path / "a.png")
    image = LoadImaged(keys="image")({"image": str(tmp_path / "a.png")})["image"]
    SaveImaged(keys="pred", output_dir=tmp_path / "out", dtype="uint16")({"pred": image * 300})
    written = Image.open(tmp_path / "out" / "a_seg.png")
    np.testing.assert_array_equal(np.asarray(written), SEEN.astype(np.uint16) * 300)
    with pytest.raises(ConfigError, match="do not fit uint8"):
        SaveImaged(keys="pred", output_dir=tmp_path / "out")({"pred": image * 300})


def test_another_size_is_refused_and_nothing_is_left(tmp_path):
    Image.fromarray(SEEN).save(tmp_path / "a.png")
    image = LoadImaged(keys="image")({"image": str(tmp_path / "a.png")})["image"]
    with pytest.raises(ConfigError, match=r"a\.png is not on its grid"):
        SaveImaged(keys="pred", output_dir=tmp_path / "out")({"pred": image[:, :6]})
    assert not [*tmp_path.glob("out/*")]
