"""The reader of NIfTI files, which refuses what MONAI's own would guess."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.data import NibabelReader
from nibabel.volumeutils import apply_read_scaling

from unet_bundle.errors import InputError
from unet_bundle.geometry import Affine, check_affine, corners, format_spacing, grid_difference, spacing_of
from unet_bundle.io.checks import (
    GZIP_MAGIC,
    REPLACE,
    SPATIAL_AXES,
    check_channel,
    check_shape,
    check_size,
    check_values,
    check_voxel_type,
    damaged,
    drop_singleton_axes,
    inflated,
    inflated_start,
    opening,
)

FORM_TOLERANCE = 1e-3
"""How far a file's sform and qform may part, as a fraction of the scan's diagonal.

The qform's float32 quaternion holds an angle near a half turn only to about 5e-4 rad, so good files part by that much.
"""

PLANE_TOLERANCE = 0.01
"""How far a file of two axes may lean out of the axial plane, as the sine of the angle: its third axis is lost."""

PAIR_SUFFIXES = (".hdr", ".img")
"""Endings of NIfTI in two files, header and voxels; the Analyze files of these names are refused."""

_NIFTI1_HEADER, _NIFTI2_HEADER = 348, 540
_UNIT_MASK, _UNUSUAL_UNITS = 7, {1: "metres", 3: "micrometres"}
_NIBABEL_ERROR = 40  # level of the header faults that nibabel cannot mend
_QUIET = logging.Logger("nibabel's header checks", level=logging.CRITICAL)  # noqa: LOG001 - what matters is raised


@dataclass(frozen=True)
class NiftiFile:
    """A NIfTI file with its header checked and its voxels not yet decoded.

    Attributes:
        path: of the file.
        header: nibabel's, in the file's byte order.
        affine: 4x4, voxel index to mm, RAS.
        data_path: of the file of the voxels, the same unless header and voxels are a pair.
        contents: what a compressed file holds, header included; None for a plain one, which is read when its
            voxels are asked for.
    """

    path: Path
    header: Any
    affine: Affine
    data_path: Path
    contents: bytearray | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Voxels along every axis, those beyond space included."""
        return tuple(int(side) for side in self.header.get_data_shape())


class NiftiReader(NibabelReader):
    """Read NIfTI-1 and NIfTI-2 files (``.nii``, ``.nii.gz``, pairs) and refuse those with geometry or voxels in doubt.

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

    def verify_suffix(self, filename: Any) -> bool:
        """Whether all files have an ending of NIfTI."""
        names = [filename] if isinstance(filename, (str, PathLike)) else list(filename)
        return bool(names) and all(
            isinstance(name, (str, PathLike)) and str(name).lower().endswith((".nii", ".nii.gz", *PAIR_SUFFIXES))
            for name in names
        )

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
        check_values(voxels, img.path.name)
        return drop_singleton_axes(voxels)


def _open_nifti(path: Path) -> NiftiFile:
    """Read the header and check all that it says."""
    name, contents = path.name, None
    with opening(name, "NIfTI file"):
        header_path, data_path = _pair_of(path)
        with header_path.open("rb") as file:
            compressed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC and data_path == path
            file.seek(0)
            start = inflated_start(file, _NIFTI2_HEADER, name) if compressed else file.read(_NIFTI2_HEADER)
            header = _parsed_header(start, name)
            shape, stored_type = header.get_data_shape(), header.get_data_dtype()
            check_voxel_type(stored_type, name)
            check_shape(shape, name)
            offset = int(header.get_data_offset())
            size = data_path.stat().st_size
            if compressed:
                file.seek(0)
                contents = inflated(file, offset + math.prod(shape) * stored_type.itemsize, name)
                size = len(contents)
    check_size(size - offset, shape, stored_type, name)
    return NiftiFile(path, header, _checked_affine(header, name), data_path, contents)


def _pair_of(path: Path) -> tuple[Path, Path]:
    """The files of header and voxels: both the path itself, but of a pair ``.hdr`` and ``.img``."""
    if path.suffix.lower() not in PAIR_SUFFIXES or not path.is_file():
        return path, path
    header, data = (path.with_suffix(end.upper() if path.suffix.isupper() else end) for end in PAIR_SUFFIXES)
    for part in (header, data):
        if not part.is_file():
            raise InputError(f"{path.name} belongs to {part.name}, which is not beside it: keep both in one folder")
    return header, data


def _parsed_header(start: bytes, name: str) -> Any:
    """The header from the first bytes of its file. Extensions, which may follow, are not read."""
    pair = name.lower().endswith(PAIR_SUFFIXES)
    header_size = int.from_bytes(start[:4], "little"), int.from_bytes(start[:4], "big")
    if _NIFTI2_HEADER in header_size:
        header_class: Any = nib.nifti2.Nifti2PairHeader if pair else nib.Nifti2Header
        magic = start[4:7]
    elif _NIFTI1_HEADER in header_size:
        header_class = nib.nifti1.Nifti1PairHeader if pair else nib.Nifti1Header
        magic = start[344:347]
    else:
        raise InputError(f"{name} is not a NIfTI file or its header is damaged: {REPLACE}")
    if pair and magic[:1] != b"n":
        raise InputError(
            f"{name} is an Analyze file, which does not state its orientation: convert it to NIfTI from its source"
        )
    if (magic[1:2] == b"i") != pair:
        raise InputError(f"{name} has a damaged NIfTI header: {REPLACE}")
    try:
        header = header_class(start[: header_class.sizeof_hdr], check=False)
        codes = int(header["qform_code"]), int(header["sform_code"])
        header.check_fix(logger=_QUIET, error_level=_NIBABEL_ERROR)
        header.get_data_shape(), header.get_data_dtype(), header.get_slope_inter(), int(header.get_data_offset())
    except Exception as error:  # nibabel and numpy raise many kinds for a damaged header; all mean the same
        raise InputError(f"{name} has a damaged NIfTI header: {REPLACE}") from error
    if codes != (int(header["qform_code"]), int(header["sform_code"])):  # nibabel takes an unknown code for none
        raise InputError(f"{name} has a qform or sform code that NIfTI does not know: {REPLACE}")
    return header


def _stored_voxels(file: NiftiFile) -> npt.NDArray[Any]:
    """The voxels as the file has them. MONAI copies them next, into its own type and order: here is no need to."""
    stored_type: np.dtype[Any] = file.header.get_data_dtype()
    offset = int(file.header.get_data_offset())
    if file.contents is not None:
        voxels: npt.NDArray[Any] = np.ndarray(file.shape, stored_type, buffer=file.contents, offset=offset, order="F")
        return voxels
    try:
        return np.fromfile(file.data_path, stored_type, math.prod(file.shape), offset=offset).reshape(
            file.shape, order="F"
        )
    except (OSError, ValueError):  # the file changed since its header was read
        raise damaged(file.path.name) from None


def _as_channel(file: NiftiFile, first: NiftiFile) -> NiftiFile:
    """The file as a channel of the scan that `first` begins, with its affine: MONAI stacks equal affines only."""
    check_channel(file.shape, file.affine, file.path.name, first.shape, first.affine, first.path.name)
    return replace(file, affine=first.affine)


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
