"""Readers that refuse what MONAI's own would guess, one class for each family of formats."""

import gzip
import io
import logging
import math
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.data import NibabelReader
from nibabel.volumeutils import apply_read_scaling

from unet_bundle.errors import InputError
from unet_bundle.geometry import (
    Affine,
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

PLANE_TOLERANCE = 0.01
"""How far a file of two axes may lean out of the axial plane, as the sine of the angle: its third axis is lost."""

MAX_PADDING_BYTES = 512
"""How many bytes may follow the voxels: more means that shape or type in the header are wrong."""

SPATIAL_AXES = 3
_GZIP_MAGIC = b"\x1f\x8b"
_NIFTI1_HEADER, _NIFTI2_HEADER = 348, 540
_UNIT_MASK, _UNUSUAL_UNITS = 7, {1: "metres", 3: "micrometres"}
_NIBABEL_ERROR = 40  # level of the header faults that nibabel cannot mend
_QUIET = logging.Logger("nibabel's header checks", level=logging.CRITICAL)  # noqa: LOG001 - what matters is raised
_REPLACE = "get a fresh copy of it"


@dataclass(frozen=True)
class NiftiFile:
    """A NIfTI file with its header checked and its voxels not yet decoded.

    Attributes:
        path: of the file.
        header: nibabel's, in the file's byte order.
        affine: 4x4, voxel index to mm, RAS.
        contents: what a compressed file holds; None for a plain one, which is read when its voxels are asked for.
    """

    path: Path
    header: Any
    affine: Affine
    contents: bytes | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along every axis, those beyond space included."""
        return tuple(int(side) for side in self.header.get_data_shape())


class NiftiReader(NibabelReader):
    """Read NIfTI-1 and NIfTI-2 files (``.nii``, ``.nii.gz``) and refuse those whose geometry or voxels are in doubt.

    Unlike `monai.data.NibabelReader` it never repairs a geometry (MONAI replaces a sform by a qform that nobody set
    where the pixel sizes disagree), checks the gzip checksum, and looks at every voxel. Several files are
    stacked as channels. The metadata are those of MONAI's reader, so that its transforms and ours find them.

    Raises:
        InputError: naming the file by its base name (the folder may be a patient's), if it is missing, damaged or cut
            short; has no sform and no qform, or two that disagree; is in metres or micrometres; has no voxels, more
            than one non-spatial axis, a plane that is not axial, RGB or complex voxels, or NaN, infinite or huge
            values.
    """

    def __init__(self) -> None:
        super().__init__()

    def read(self, data: Sequence[PathLike[Any] | str] | PathLike[Any] | str, **_kwargs: Any) -> Any:
        """Open one file or several and check the headers.

        Returns:
            One `NiftiFile` or a list of them; the voxels are decoded by `get_data`.
        """
        self.filenames = (data,) if isinstance(data, (str, PathLike)) else tuple(data)
        files = [_open_nifti(Path(filename)) for filename in self.filenames]
        if len(files) == 1:
            return files[0]
        return [_as_channel(file, files[0]) for file in files]

    def _get_affine(self, img: NiftiFile) -> Affine:
        return img.affine

    def _get_array_data(self, img: NiftiFile, filename: object) -> npt.NDArray[Any]:  # noqa: ARG002 - MONAI's signature
        voxels = _stored_voxels(img)
        # Bad scale factors may overflow; what comes of it is refused just below.
        with np.errstate(all="ignore"):
            voxels = apply_read_scaling(voxels, *img.header.get_slope_inter())
        _check_values(voxels, img.path.name)
        return _drop_singleton_axes(voxels)


def _open_nifti(path: Path) -> NiftiFile:
    """Read the header and check all that it says."""
    name = path.name
    contents = None
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            compressed = file.read(len(_GZIP_MAGIC)) == _GZIP_MAGIC
            file.seek(0)
            if compressed:
                contents = _decompressed(file.read(), name)
                size = len(contents)
            header = _parsed_header(file if contents is None else io.BytesIO(contents), name)
    except FileNotFoundError:
        raise InputError(f"{name} does not exist: check the path") from None
    except IsADirectoryError:
        raise InputError(f"{name} is a folder: give a NIfTI file") from None
    except OSError as error:  # its own text would show the folder
        raise InputError(f"{name} cannot be read ({error.strerror}): check the file and its permissions") from None
    shape, stored_type = header.get_data_shape(), header.get_data_dtype()
    _check_voxel_type(stored_type, name)
    _check_shape(shape, name)
    surplus = size - int(header.get_data_offset()) - math.prod(shape) * stored_type.itemsize
    if surplus < 0:
        raise _damaged(name)
    if surplus > MAX_PADDING_BYTES:
        raise InputError(f"{name} holds more voxels than its header says ({format_shape(shape)}): {_REPLACE}")
    return NiftiFile(path, header, _checked_affine(header, name), contents)


def _parsed_header(file: BinaryIO, name: str) -> Any:
    start = file.read(4)
    file.seek(0)
    header_size = int.from_bytes(start, "little"), int.from_bytes(start, "big")
    if _NIFTI2_HEADER in header_size:
        header_class: Any = nib.Nifti2Header
    elif _NIFTI1_HEADER in header_size:
        header_class = nib.Nifti1Header
    else:
        raise InputError(f"{name} is not a NIfTI file or its header is damaged: {_REPLACE}")
    try:
        header = header_class.from_fileobj(file, check=False)
        codes = int(header["qform_code"]), int(header["sform_code"])
        header.check_fix(logger=_QUIET, error_level=_NIBABEL_ERROR)
        header.get_data_shape(), header.get_data_dtype(), header.get_slope_inter()
    except Exception as error:  # nibabel and numpy raise many kinds for a damaged header; all mean the same
        raise InputError(f"{name} has a damaged NIfTI header: {_REPLACE}") from error
    if codes != (int(header["qform_code"]), int(header["sform_code"])):  # nibabel takes an unknown code for none
        raise InputError(f"{name} has a qform or sform code that NIfTI does not know: {_REPLACE}")
    return header


def _decompressed(contents: bytes, name: str) -> bytes:
    try:
        return gzip.decompress(contents)  # compares the checksum, which nibabel never comes to
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(name) from error


def _stored_voxels(file: NiftiFile) -> npt.NDArray[Any]:
    """The voxels as the file has them. MONAI copies them next, into its own type and order: here is no need to."""
    stored_type: np.dtype[Any] = file.header.get_data_dtype()
    offset = int(file.header.get_data_offset())
    if file.contents is not None:
        voxels: npt.NDArray[Any] = np.ndarray(file.shape, stored_type, buffer=file.contents, offset=offset, order="F")
        return voxels
    try:
        return np.fromfile(file.path, stored_type, math.prod(file.shape), offset=offset).reshape(file.shape, order="F")
    except (OSError, ValueError):  # the file changed since its header was read
        raise _damaged(file.path.name) from None


def _damaged(name: str) -> InputError:
    return InputError(f"{name} is damaged or cut short, its voxels cannot be read: {_REPLACE}")


def _as_channel(file: NiftiFile, first: NiftiFile) -> NiftiFile:
    """The file as a channel of the scan that `first` begins, with its affine: MONAI stacks equal affines only."""
    name = file.path.name
    if math.prod(file.shape[SPATIAL_AXES:]) > 1:
        raise InputError(
            f"{name} has shape {format_shape(file.shape)}, but where each channel is a file, each is 3D: split it"
        )
    difference = grid_difference(file.shape[:SPATIAL_AXES], file.affine, first.shape[:SPATIAL_AXES], first.affine)
    if difference:
        raise InputError(f"{name} is not on the grid of {first.path.name} ({difference}): resample it onto that")
    return replace(file, affine=first.affine)


def _check_voxel_type(voxel_type: np.dtype[Any], name: str) -> None:
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


def _checked_affine(header: Any, name: str) -> Affine:
    """The affine that sform, qform and pixel sizes of a header agree on, or a refusal."""
    unit = _UNUSUAL_UNITS.get(int(header["xyzt_units"]) & _UNIT_MASK)
    if unit is not None:
        raise InputError(f"{name} says that its voxel sizes are in {unit}: save it in millimetres")
    try:
        sform, qform = header.get_sform(coded=True)[0], header.get_qform(coded=True)[0]
    except Exception as error:  # a quaternion that is none
        raise InputError(f"{name} has a damaged qform: correct it or set its code to 0") from error
    affine = qform if sform is None else sform
    if affine is None:
        raise InputError(
            f"{name} has neither sform nor qform (both codes are 0), so its orientation is unknown: "
            "convert it again from its source, or set the right affine"
        )
    check_affine(affine, name)
    if (
        len(header.get_data_shape()) == 2
        and np.abs(affine[2, :2]).max() > PLANE_TOLERANCE * np.abs(affine[:3, :2]).max()
    ):
        raise InputError(
            f"{name} is a plane that is not axial, which two axes cannot say: save it as a volume of one slice"
        )
    if sform is not None:
        _check_forms_agree(header, sform, qform, name)
    return np.asarray(affine, dtype=np.float64)


def _check_forms_agree(header: Any, sform: Affine, qform: Affine | None, name: str) -> None:
    shape = header.get_data_shape()[:SPATIAL_AXES]
    spacing = spacing_of(sform)[: len(shape)]
    diagonal = float(np.linalg.norm(np.ptp(corners(shape, sform), axis=0)))
    tolerance_mm = FORM_TOLERANCE * max(diagonal, *spacing)
    difference = None if qform is None else grid_difference(shape, sform, shape, qform, tolerance_mm)
    if difference:
        raise InputError(f"{name} has a sform and a qform that disagree ({difference}): correct the wrong one")
    pixel_sizes = np.asarray(header.get_zooms()[: len(shape)], dtype=np.float64)
    drift = np.abs(pixel_sizes - spacing) * shape
    if not (drift <= tolerance_mm).all():  # False for NaN, too
        raise InputError(
            f"{name} has pixel sizes of {format_spacing(pixel_sizes)} mm that disagree with its sform "
            f"({format_spacing(spacing)} mm): correct the wrong one"
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
    voxels = voxels.squeeze(axis=axes)
    # MONAI copies what is not in C order; what is must not stay a read-only view of the file's bytes.
    return voxels.copy() if voxels.flags.c_contiguous and not voxels.flags.writeable else voxels
