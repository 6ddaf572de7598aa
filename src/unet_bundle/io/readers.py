"""Readers that refuse what MONAI's own would guess, one class for each family of formats."""

import gzip
import io
import math
import os
import zlib
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.data import NibabelReader
from nibabel.volumeutils import apply_read_scaling

from unet_bundle.errors import InputError
from unet_bundle.geometry import (
    check_affine,
    corners,
    format_shape,
    format_spacing,
    grid_difference,
    spacing_of,
)

FORM_TOLERANCE = 1e-3
"""How far a file's sform and qform may part, as a fraction of the scan's diagonal.

The qform's float32 quaternion holds an angle near a half turn only to about 5e-4 rad, so good files part by that much.
"""

SPATIAL_AXES = 3
_CONTENTS = "contents"  # where nibabel's image carries the file's bytes from `read` to `get_data`
_GZIP_MAGIC = b"\x1f\x8b"
_NIFTI1_HEADER, _NIFTI2_HEADER = 348, 540
_UNIT_MASK, _METRE, _MICROMETRE = 7, 1, 3
_REPLACE = "get a fresh copy of it"


class NiftiReader(NibabelReader):
    """Read NIfTI-1 and NIfTI-2 files (``.nii``, ``.nii.gz``) and refuse those whose geometry or voxels are in doubt.

    Unlike `monai.data.NibabelReader` it never repairs a header (MONAI replaces a sform by a qform that nobody set
    where the pixel sizes disagree), checks the gzip checksum, and looks at every voxel. Several files are
    stacked as channels. The metadata are those of MONAI's reader, so that its transforms and ours find them.

    Raises:
        InputError: naming the file by its base name (the folder may be a patient's), if it is missing, damaged or cut
            short; has no sform and no qform, or two that disagree; is in metres or micrometres; has no voxels, more
            than one non-spatial axis, RGB or complex voxels, or NaN, infinite or huge values.
    """

    def __init__(self) -> None:
        super().__init__()

    def read(self, data: Sequence[PathLike[Any] | str] | PathLike[Any] | str, **_kwargs: Any) -> Any:
        """Open one file or several and check the headers.

        Returns:
            One nibabel image or a list of them; the voxels are decoded by `get_data`.
        """
        self.filenames = (data,) if isinstance(data, (str, PathLike)) else tuple(data)
        images = [_open_nifti(Path(filename)) for filename in self.filenames]
        for image, filename in zip(images, self.filenames, strict=True):
            if len(images) > 1:
                _check_is_channel(image, Path(filename).name, images[0], Path(self.filenames[0]).name)
        return images if len(images) > 1 else images[0]

    def _get_array_data(self, img: Any, filename: PathLike[str] | str) -> npt.NDArray[Any]:
        path = Path(filename)
        voxels = _stored_voxels(img, path)
        # Bad scale factors may overflow; what comes of it is refused just below.
        with np.errstate(all="ignore"):
            voxels = apply_read_scaling(voxels, img.dataobj.slope, img.dataobj.inter)
        _check_values(voxels, path.name)
        return _drop_singleton_axes(voxels)


def _open_nifti(path: Path) -> Any:
    """Read the header and check all that it says; of a compressed file the whole contents, which the image keeps."""
    try:
        with path.open("rb") as file:
            compressed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            file.seek(0)
            if compressed:
                contents = _decompressed(file.read(), path.name)
                image = _parsed_header(io.BytesIO(contents), path.name)
                image.extra[_CONTENTS] = contents
                size = len(contents)
            else:
                image = _parsed_header(file, path.name)
                size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise InputError(f"{path.name} does not exist: check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path.name} is a folder: give a NIfTI file") from None
    except OSError as error:  # its own text would show the folder
        raise InputError(f"{path.name} cannot be read ({error.strerror}): check the file and its permissions") from None
    _check_voxel_type(image, path.name)
    _check_shape(image.shape, path.name)
    stored = image.dataobj
    if stored.offset + math.prod(stored.shape) * stored.dtype.itemsize > size:
        raise _damaged(path.name)
    _check_unit(image, path.name)
    _check_forms(image, path.name)
    check_affine(image.affine, path.name)
    return image


def _parsed_header(file: Any, name: str) -> Any:
    start = file.read(4)
    file.seek(0)
    header_size = int.from_bytes(start, "little"), int.from_bytes(start, "big")
    if _NIFTI2_HEADER in header_size:
        image_class: Any = nib.Nifti2Image
    elif _NIFTI1_HEADER in header_size:
        image_class = nib.Nifti1Image
    else:
        raise InputError(f"{name} is not a NIfTI file or its header is damaged: {_REPLACE}")
    try:
        return image_class.from_stream(file)
    except Exception as error:  # nibabel and numpy raise many kinds for a damaged header; all mean the same
        raise InputError(f"{name} has a damaged NIfTI header: {_REPLACE}") from error


def _decompressed(contents: bytes, name: str) -> bytes:
    try:
        return gzip.decompress(contents)  # compares the checksum, which nibabel never comes to
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(name) from error


def _stored_voxels(image: Any, path: Path) -> npt.NDArray[Any]:
    """The voxels as the file has them. MONAI copies them next, into its own type and order: here is no need to."""
    shape: tuple[int, ...] = tuple(image.shape)
    stored_type: np.dtype[Any] = image.dataobj.dtype
    offset = int(image.dataobj.offset)
    contents: bytes | None = image.extra.get(_CONTENTS)
    if contents is not None:
        voxels: npt.NDArray[Any] = np.ndarray(shape, stored_type, buffer=contents, offset=offset, order="F")
        return voxels
    try:
        return np.fromfile(path, stored_type, math.prod(shape), offset=offset).reshape(shape, order="F")
    except (OSError, ValueError):  # the file changed since its header was read
        raise _damaged(path.name) from None


def _damaged(name: str) -> InputError:
    return InputError(f"{name} is damaged or cut short, its voxels cannot be read: {_REPLACE}")


def _check_is_channel(image: Any, name: str, first: Any, first_name: str) -> None:
    """Refuse a file that cannot be stacked with others as a channel of one scan."""
    if math.prod(image.shape[SPATIAL_AXES:]) > 1:
        raise InputError(
            f"{name} has shape {format_shape(image.shape)}: where a scan has a file for each channel, each is 3D"
        )
    difference = grid_difference(image.shape[:SPATIAL_AXES], image.affine, first.shape[:SPATIAL_AXES], first.affine)
    if difference:
        raise InputError(f"{name} is not on the grid of {first_name} ({difference}): resample it onto that")
    image.set_sform(first.affine, code="scanner")  # within the tolerance; MONAI stacks equal affines only


def _check_voxel_type(image: Any, name: str) -> None:
    voxel_type = image.get_data_dtype()
    if voxel_type.names is not None:
        raise InputError(f"{name} has RGB colour voxels, not intensities: export the scan in grey values")
    if voxel_type.kind not in "iuf":
        raise InputError(f"{name} has voxels of type {voxel_type}, not real numbers: export the scan's magnitude")


def _check_shape(shape: tuple[int, ...], name: str) -> None:
    if len(shape) < 2 or 0 in shape:
        raise InputError(f"{name} has shape {format_shape(shape) or '()'}, so it holds no image: {_REPLACE}")
    if sum(side > 1 for side in shape[SPATIAL_AXES:]) > 1:
        raise InputError(
            f"{name} has shape {format_shape(shape)}, but only one axis may follow the three of space: split it"
        )


def _check_unit(image: Any, name: str) -> None:
    unit = int(image.header["xyzt_units"]) & _UNIT_MASK
    if unit in (_METRE, _MICROMETRE):
        unit_name = "metres" if unit == _METRE else "micrometres"
        raise InputError(f"{name} says that its voxel sizes are in {unit_name}: save it in millimetres")


def _check_forms(image: Any, name: str) -> None:
    """Refuse a file whose three accounts of its geometry (sform, qform, pixel sizes) are missing or contradict."""
    try:
        sform, qform = image.get_sform(coded=True)[0], image.get_qform(coded=True)[0]
    except Exception as error:  # a quaternion that is none
        raise InputError(f"{name} has a damaged qform: correct it or set its code to 0") from error
    if sform is None and qform is None:
        raise InputError(
            f"{name} has neither sform nor qform (both codes are 0), so its orientation is unknown: "
            "convert it again from its source, or set the right affine"
        )
    shape = image.shape[:SPATIAL_AXES]
    if sform is None or not np.isfinite(sform).all():
        return  # pixel sizes are part of the qform; what is not finite is for `check_affine`
    diagonal = float(np.linalg.norm(np.ptp(corners(shape, sform), axis=0)))
    tolerance_mm = FORM_TOLERANCE * max(diagonal, min(spacing_of(sform)))
    if qform is not None:
        difference = grid_difference(shape, sform, shape, qform, tolerance_mm)
        if difference:
            raise InputError(f"{name} has a sform and a qform that disagree ({difference}): correct the wrong one")
    pixel_sizes = np.asarray(image.header["pixdim"][1 : 1 + len(shape)], dtype=np.float64)
    drift = np.abs(pixel_sizes - spacing_of(sform)[: len(shape)]) * shape
    if not (drift <= tolerance_mm).all():
        raise InputError(
            f"{name} has pixel sizes {format_spacing(pixel_sizes)} mm that disagree with its sform's "
            f"{format_spacing(spacing_of(sform)[: len(shape)])} mm: correct the wrong one"
        )


def _check_values(voxels: npt.NDArray[Any], name: str) -> None:
    if voxels.dtype.kind != "f":
        return
    limit = float(np.finfo(np.float32).max)
    # NaN passes through min and max and fails every comparison: two passes find all that is wrong.
    if voxels.min() >= -limit and voxels.max() <= limit:
        return
    bad = int(voxels.size - np.count_nonzero(np.abs(voxels) <= limit))
    raise InputError(f"{name} has {bad} voxels that are NaN, infinite or beyond float32: replace them by numbers")


def _drop_singleton_axes(voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Drop axes of length one after the three of space: what remains is at most one axis, the channels."""
    axes = tuple(axis for axis in range(SPATIAL_AXES, voxels.ndim) if voxels.shape[axis] == 1)
    return voxels.squeeze(axis=axes)
