"""MONAI's saving transform, writing label maps on exactly the grid of the scan they belong to."""

import gzip
import logging
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import monai.transforms
import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.data import MetaTensor, NibabelWriter

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.geometry import as_4x4
from unet_bundle.io.checks import SPATIAL_AXES
from unet_bundle.io.dicom_rtstruct import RtStructWriter
from unet_bundle.io.dicom_seg import DicomSegWriter
from unet_bundle.io.dicom_seg_frames import SegmentationType
from unet_bundle.io.files import replacing
from unet_bundle.io.label_arrays import check_on_grid, label_array, on_cpu
from unet_bundle.io.label_writer import LabelWriter
from unet_bundle.io.nrrd_writer import NrrdWriter
from unet_bundle.io.output_format import (
    AUTO,
    DICOM_SEG,
    NIFTI,
    PNG,
    RTSTRUCT,
    check_format,
    format_for,
    output_name,
    suffix_of,
)
from unet_bundle.io.plane_writer import PlaneWriter
from unet_bundle.io.source_grid import grid_of_slices, is_dicom, on_slices, source_series
from unet_bundle.stages import stage

logger = logging.getLogger(__name__)

_GEOMETRY_FIELDS = (
    *("qform_code", "sform_code", "xyzt_units"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
"""Header fields that, with the pixel sizes, say where the voxels are: the same in NIfTI-1 and NIfTI-2."""

SEG_TYPES: dict[str, SegmentationType] = {
    "dicom-seg": "BINARY",
    "dicom-seg-labelmap": "LABELMAP",
    "dicom-seg-fractional": "FRACTIONAL",
}
_NIFTI2_HEADER = 540
_SCANNER = 1


class NiftiWriter(NibabelWriter):
    """Write a label map with the input file's own geometry fields, bit for bit.

    Shape, affine, sform and qform with their codes, units and the NIfTI version are the input's; an image made in
    memory, without these fields, gets a sform from its affine (and the qform, where one can express it). Nothing is
    resampled.

    Args:
        output_dtype: integer type of the voxels.
        scale: accepted for MONAI, whose `SaveImage` passes it; must be None.

    Raises:
        ConfigError: if a scale is given.
    """

    def __init__(self, output_dtype: npt.DTypeLike = np.uint8, scale: int | None = None) -> None:
        if scale is not None:
            raise ConfigError(f"NiftiWriter has scale {scale}: label values are not scaled, leave it out")
        self.label_dtype = np.dtype(output_dtype)
        super().__init__(output_dtype=self.label_dtype)
        self.header: Any = None

    def set_data_array(
        self,
        data_array: Any,
        channel_dim: int | None = 0,
        squeeze_end_dims: bool = True,  # noqa: ARG002 - MONAI's signature
        **_kwargs: Any,
    ) -> None:
        """Take the label map.

        Args:
            data_array: tensor or array of whole numbers; shape [1, *spatial], or [*spatial] if `channel_dim` is None.
            channel_dim: axis of the single channel.
            squeeze_end_dims: accepted for MONAI; the input file's shape decides.

        Raises:
            ConfigError: if there are several channels, or values that are no whole numbers or do not fit the type.
        """
        self.data_obj = label_array(data_array, self.label_dtype, channel_dim)

    def set_metadata(self, meta_dict: Mapping[str, Any] | None, resample: bool = False, **_options: Any) -> None:  # noqa: ARG002
        """Take the grid of the input file from the metadata of its `MetaTensor`.

        Args:
            meta_dict: metadata as `LoadImaged` leaves them and MONAI's transforms carry them on.
            resample: accepted for MONAI; nothing is resampled.

        Raises:
            ConfigError: if the label map is not on the input's grid.
            InputError: if it is of a DICOM series with unequal slice distances.
        """
        meta = {key: on_cpu(value) for key, value in (meta_dict or {}).items()}
        if "original_affine" in meta and ("dim" in meta or "spatial_shape" in meta):
            check_on_grid(np.asarray(self.data_obj), meta, _input_shape(meta)[:SPATIAL_AXES])
        if is_dicom(meta):
            source = source_series(meta, "nifti")
            self.data_obj = on_slices(np.asarray(self.data_obj), meta, source)
            meta["affine"] = grid_of_slices(meta, source)
        has_header = all(field in meta for field in ("dim", "pixdim", "sizeof_hdr", *_GEOMETRY_FIELDS))
        self.header = _copied_header(meta) if has_header else _plain_header(meta, self.data_obj.shape)
        self.data_obj = self.data_obj.reshape(self.header.get_data_shape())
        self.affine = self.header.get_best_affine()

    def write(self, filename: str | PathLike[Any], verbose: bool = False, **_obj_kwargs: Any) -> None:
        """Write the file under a temporary name beside the final one, then rename it: nothing half-written stays."""
        path = Path(filename)
        header = self.header
        header.set_data_dtype(self.label_dtype)
        image_class = nib.Nifti2Image if isinstance(header, nib.Nifti2Header) else nib.Nifti1Image
        contents = image_class(self.data_obj, None, header).to_bytes()
        if path.name.lower().endswith(".gz"):
            contents = gzip.compress(contents, compresslevel=6, mtime=0)  # no time stamp: the same bytes every time
        with replacing(path) as temporary:
            temporary.write_bytes(contents)
        if verbose:
            logger.info("wrote %s", path.name)


class NiftiRegionsWriter(NiftiWriter):
    """Write a 0 or 1 for each of several regions, one after another along the fourth axis of a NIfTI file."""

    def set_data_array(
        self, data_array: Any, channel_dim: int | None = 0, squeeze_end_dims: bool = True, **_kwargs: Any
    ) -> None:
        """Take the regions, shape [regions, *spatial]; for the other arguments and errors see `NiftiWriter`."""
        self.parts = []
        for region in np.moveaxis(np.asarray(on_cpu(data_array)), channel_dim or 0, 0):
            super().set_data_array(region, None, squeeze_end_dims)
            self.parts.append(self.data_obj)

    def set_metadata(self, meta_dict: Mapping[str, Any] | None, resample: bool = False, **_options: Any) -> None:
        """Take the grid of the input file, as `NiftiWriter`."""
        placed = []
        for part in self.parts:
            self.data_obj = part
            super().set_metadata(meta_dict, resample)
            placed.append(self.data_obj)
        spatial = (*placed[0].shape, 1, 1, 1)[:SPATIAL_AXES]
        self.data_obj = np.stack([each.reshape(spatial) for each in placed], axis=-1)
        sizes = self.header["pixdim"].copy()
        self.header.set_data_shape(self.data_obj.shape)
        self.header["pixdim"] = sizes


class SaveImaged(monai.transforms.SaveImaged):
    """Write label maps as ``<case>_<postfix>`` in one flat folder, on the grid of the scan.

    Results of a DICOM series lie on its own slices, also where reading had to resample them, and are named by its
    SeriesInstanceUID, since its folder may bear a patient's name. The class has the name of MONAI's and passes for it,
    since hosts look for it.

    Args:
        keys: keys of the label maps, `MetaTensor` of shape [1, *spatial], inverted to the scan's grid.
        output_dir: folder, made if missing.
        output_postfix: appended to the case's name after an underscore.
        dtype: ``"uint8"``, or ``"uint16"`` for more than 256 classes.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.
        output_format: one of `unet_bundle.io.output_format.FORMATS`; ``"auto"`` writes DICOM SEG for DICOM series
            (NIfTI, with a warning, of one that lacks what a SEG refers to), PNG for pictures and NIfTI for the rest.
        segments: names, colours and coded terms for formats that hold them, see
            `unet_bundle.io.segments.segments_of`.
        algorithm: ``name``, ``version`` and ``family`` (a coded term) of the model, for DICOM.
        region_channels: the maps have a 0 or 1 for each of several regions, shape [regions, *spatial], and are written
            with them along a fourth axis; of the formats, NIfTI alone has that.

    Raises:
        ConfigError: if `dtype` or `output_format` is another, or when called: if the label map is not on the scan's
            grid, has several channels unawares, or values that do not fit the type, or the file would replace the scan
            itself, or the scan cannot have a result in that format.
        InputError: when called, if a DICOM series lacks what a result must refer to.
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        output_dir: str | Path,
        output_postfix: str = "seg",
        dtype: npt.DTypeLike = np.uint8,
        allow_missing_keys: bool = False,
        output_format: str = AUTO,
        segments: Mapping[str, Mapping[str, Any]] | None = None,
        algorithm: Mapping[str, Any] | None = None,
        region_channels: bool = False,
    ) -> None:
        if np.dtype(dtype) not in (np.dtype(np.uint8), np.dtype(np.uint16)):
            raise ConfigError(f"SaveImaged has dtype {np.dtype(dtype)}: label maps are uint8 or uint16")
        super().__init__(keys, output_dir=str(output_dir), allow_missing_keys=allow_missing_keys)
        self.saver = _StrictSaveImage(
            str(output_dir), output_postfix, np.dtype(dtype), check_format(output_format), segments, algorithm
        )
        self.saver.region_channels = region_channels


class _StrictSaveImage(monai.transforms.SaveImage):
    """`SaveImage` with our writers, whose refusal is let through."""

    def __init__(
        self,
        output_dir: str,
        output_postfix: str,
        dtype: np.dtype[Any],
        output_format: str,
        segments: Mapping[str, Mapping[str, Any]] | None,
        algorithm: Mapping[str, Any] | None,
    ) -> None:
        super().__init__(
            output_dir=output_dir,
            output_postfix=output_postfix,
            output_dtype=dtype,
            resample=False,
            separate_folder=False,
            writer=NiftiWriter,
        )
        self.output_dir, self.output_postfix, self.label_dtype = output_dir, output_postfix, dtype
        self.output_format, self.segments, self.algorithm = output_format, segments, algorithm
        self.region_channels = False

    def __call__(self, img: Any, meta_data: Any = None, filename: Any = None) -> Any:
        meta = img.meta if isinstance(img, MetaTensor) else (meta_data or {})
        source = str(meta.get("filename_or_obj", self._data_index))
        chosen = format_for(self.output_format, source, dicom=is_dicom(meta))
        name = output_name(source, self.output_postfix, self.output_format, dicom=is_dicom(meta))
        path = Path(f"{filename}{suffix_of(chosen)}") if filename else Path(self.output_dir) / name
        if path.exists() and Path(source).exists() and path.samefile(source):
            raise ConfigError(f"{path.name} would replace the scan itself: give another output_dir or output_postfix")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with stage("write"):
                self._write(img, meta, chosen, path)
        except InputError as error:
            if self.output_format != AUTO or chosen != DICOM_SEG:
                raise
            logger.warning("%s; it is written as NIfTI", error)
            self._write(img, meta, NIFTI, path.with_name(path.name.removesuffix(suffix_of(chosen)) + suffix_of(NIFTI)))
        self._data_index += 1
        return img

    def _write(self, img: Any, meta: Mapping[str, Any], chosen: str, path: Path) -> None:
        writer = self._writer(chosen)
        writer.set_data_array(img)
        writer.set_metadata(meta)
        writer.write(path, verbose=True)

    def _writer(self, chosen: str) -> NiftiWriter | LabelWriter:
        if self.region_channels and chosen != NIFTI:
            raise ConfigError(
                f"region_channels needs NIfTI, but the result is to be {chosen}: set output_format to 'nifti', or "
                "region_channels to false"
            )
        if self.region_channels:
            return NiftiRegionsWriter(self.label_dtype)
        if chosen == PNG:
            return PlaneWriter(self.label_dtype)
        if chosen in ("nrrd", "seg.nrrd"):
            return NrrdWriter(self.label_dtype, self.segments, segmentation=chosen == "seg.nrrd")
        if chosen == RTSTRUCT:
            return RtStructWriter(self.label_dtype, self.segments, self.algorithm)
        if chosen in SEG_TYPES:
            return DicomSegWriter(self.label_dtype, self.segments, self.algorithm, SEG_TYPES[chosen])
        return NiftiWriter(self.label_dtype)


def _input_shape(meta: Mapping[str, Any]) -> tuple[int, ...]:
    if "dim" not in meta:
        return tuple(int(side) for side in meta["spatial_shape"])
    dim = [int(side) for side in meta["dim"]]
    return tuple(dim[1 : 1 + dim[0]])


def _copied_header(meta: Mapping[str, Any]) -> Any:
    header: Any = nib.Nifti2Header() if int(meta["sizeof_hdr"]) == _NIFTI2_HEADER else nib.Nifti1Header()
    shape = _input_shape(meta)
    # Singleton axes after the three of space are kept; channels of the scan are not axes of its label map.
    header.set_data_shape(shape if all(side == 1 for side in shape[SPATIAL_AXES:]) else shape[:SPATIAL_AXES])
    # MONAI's transforms rewrite "pixdim" as they go; the reader keeps the file's own beside it.
    sizes = meta.get("original_pixdim", meta["pixdim"])
    used = 1 + len(header.get_data_shape())
    header["pixdim"][:used] = sizes[:used]
    for field in _GEOMETRY_FIELDS:
        header[field] = meta[field]
    return header


def _plain_header(meta: Mapping[str, Any], shape: tuple[int, ...]) -> Any:
    header: Any = nib.Nifti1Header()
    header.set_data_shape(shape)
    header.set_xyzt_units("mm")
    affine = as_4x4(meta["affine"]) if "affine" in meta else np.eye(4)
    header.set_sform(affine, code=_SCANNER)
    header.set_qform(affine, code=_SCANNER)
    if not np.allclose(header.get_qform(), affine, atol=1e-3):  # a quaternion cannot shear
        header["qform_code"] = 0
    return header
