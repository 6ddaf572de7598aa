"""Volumes in every format, made to order, and their independent readers: shared by the tests of formats."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from monai.bundle import ConfigParser

from unet_bundle.errors import InputError

with contextlib.suppress(ImportError):  # the fixture skips where it is missing
    import SimpleITK as sitk  # noqa: N813 - its usual name

SHAPE = (14, 12, 9)
VOXELS = np.random.default_rng(0).integers(-500, 1500, SHAPE).astype(np.int16)
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
DAMAGED = "is damaged or cut short, its voxels cannot be read"

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


def write(folder, name, fields, contents=None):
    """Write a header field by field (None leaves one out) and voxels behind it."""
    stem, tail = (NRRD, "\n") if name.endswith(("nrrd", "nhdr")) else (META, "ElementDataFile = LOCAL\n")
    sign = ": " if stem is NRRD else " = "
    lines = [f"{label}{sign}{value}\n" for label, value in {**stem, **fields}.items() if value is not None]
    head = "NRRD0005\n# made by a test\n" if stem is NRRD else ""
    path = folder / name
    voxels = VOXELS.tobytes(order="F") if contents is None else contents
    path.write_bytes((head + "".join(lines) + tail).encode() + voxels)
    return path
