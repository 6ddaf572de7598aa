"""Volumes in NRRD, MetaImage and FreeSurfer's MGH files."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt
from monai.data import ImageReader
from monai.utils.enums import MetaKeys, SpaceKeys
from nibabel.freesurfer.mghformat import DATA_OFFSET

from unet_bundle.errors import InputError
from unet_bundle.geometry import Affine, check_affine, format_shape
from unet_bundle.io.checks import (
    GZIP_MAGIC,
    MAX_PADDING_BYTES,
    REPLACE,
    SPATIAL_AXES,
    check_channel,
    check_shape,
    check_size,
    check_values,
    damaged,
    drop_singleton_axes,
    inflated,
    inflated_start,
    opening,
)
from unet_bundle.io.metaimage_header import parse_metaimage
from unet_bundle.io.nrrd_header import parse_nrrd
from unet_bundle.io.volume_headers import MAX_HEADER_BYTES, UNIT_TOLERANCE, check_positive, doubtful_directions

NRRD_SUFFIXES = (".nrrd", ".nhdr")
META_SUFFIXES = (".mha", ".mhd")
MGH_SUFFIXES = (".mgh", ".mgz")

MAX_MGH_TAG_BYTES = 2**24
"""Most bytes that are unpacked behind the voxels of a compressed MGH file: command lines and colour tables fit."""

_MGH_FOOTER = 20
_MGH_TAGS = range(1, 101)


@dataclass(frozen=True)
class Volume:
    """A volume with its header checked and its voxels as the file has them.

    Attributes:
        path: of the file, or of its header.
        affine: 4x4, voxel index to mm, RAS.
        voxels: shape [x, y, z] and the axes beyond space, in the file's type and byte order.
    """

    path: Path
    affine: Affine
    voxels: npt.NDArray[Any]


class VolumeReader(ImageReader):  # type: ignore[misc,unused-ignore]
    """Read NRRD, MetaImage and MGH volumes and refuse those whose geometry or voxels are in doubt.

    What the header does not state is not assumed: orientation, position and byte order have to be there. Compressed
    voxels are compared with their checksum. A ``.seg.nrrd`` of one layer is the label map that it holds. Several files
    are stacked as channels.

    Raises:
        InputError: naming the file by its base name, if it is missing, damaged or cut short; if its orientation or
            position is unknown or its unit is not mm; if it has colours, layers of segments that overlap, no voxels,
            more than one axis beyond space, or NaN, infinite or huge values.
    """

    def verify_suffix(self, filename: Any) -> bool:
        """Whether all files have an ending of these formats."""
        names = [filename] if isinstance(filename, (str, PathLike)) else list(filename)
        return bool(names) and all(
            isinstance(name, (str, PathLike))
            and str(name).lower().endswith((*NRRD_SUFFIXES, *META_SUFFIXES, *MGH_SUFFIXES))
            for name in names
        )

    def read(self, data: Sequence[PathLike[Any] | str] | PathLike[Any] | str, **_kwargs: Any) -> Any:
        """Read one file or several and check the headers.

        Returns:
            A list of `Volume`.
        """
        paths = [Path(data)] if isinstance(data, (str, PathLike)) else [Path(path) for path in data]
        volumes = [_read_volume(path) for path in paths]
        if len(volumes) > 1:
            first = volumes[0]
            for volume in volumes:
                check_channel(
                    volume.voxels.shape,
                    volume.affine,
                    volume.path.name,
                    first.voxels.shape,
                    first.affine,
                    first.path.name,
                )
        return volumes

    def get_data(self, img: Any) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Voxels as [x, y, z], or [x, y, z, channel] for channels and for several files, and their metadata."""
        channels = [_checked_voxels(volume) for volume in img]
        voxels = channels[0] if len(channels) == 1 else np.stack(channels, axis=-1)
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: img[0].affine.copy(),
            MetaKeys.ORIGINAL_AFFINE: img[0].affine.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(voxels.shape[:SPATIAL_AXES]),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if voxels.ndim == SPATIAL_AXES else -1,
        }
        return voxels, meta


def _checked_voxels(volume: Volume) -> npt.NDArray[Any]:
    voxels = volume.voxels
    voxels = voxels.astype(voxels.dtype.newbyteorder("="), copy=False)
    check_values(voxels, volume.path.name)
    return drop_singleton_axes(voxels)


def _read_volume(path: Path) -> Volume:
    with opening(path.name):
        if path.name.lower().endswith(MGH_SUFFIXES):
            return _read_mgh(path)
        return _read_with_header(path)


def _read_with_header(path: Path) -> Volume:
    """A volume in NRRD or MetaImage."""
    name = path.name
    with path.open("rb") as file:
        start = file.read(MAX_HEADER_BYTES)
    header = (parse_nrrd if name.lower().endswith(NRRD_SUFFIXES) else parse_metaimage)(start, name)
    check_shape(header.image_shape, name)
    data_path = path if header.data_file is None else path.with_name(header.data_file)
    if not data_path.is_file():
        raise InputError(f"{name} has its voxels in {data_path.name}, which is not beside it: keep both in one folder")
    size = data_path.stat().st_size - header.offset
    if header.compressed:
        with data_path.open("rb") as file:
            file.seek(header.offset)
            expected = math.prod(header.shape) * header.stored_type.itemsize
            contents = inflated(file, expected, name)
        check_size(len(contents), header.shape, header.stored_type, name)
        voxels = np.ndarray(header.shape, header.stored_type, contents, order="F")
    else:
        check_size(size, header.shape, header.stored_type, name)
        count = int(np.prod(header.shape))
        voxels = np.fromfile(data_path, header.stored_type, count, offset=header.offset)
        if voxels.size != count:  # the file changed in between
            raise damaged(name)
        voxels = voxels.reshape(header.shape, order="F")
    if header.channel_axis is not None:
        voxels = np.moveaxis(voxels, header.channel_axis, -1)
    return Volume(path, header.affine, voxels)


def _read_mgh(path: Path) -> Volume:
    """A volume of FreeSurfer's, always big endian (surfer.nmr.mgh.harvard.edu/fswiki/FsTutorial/MghFormat)."""
    name = path.name
    fields = np.dtype(nib.MGHImage.header_class._hdrdtype)  # noqa: SLF001 - the layout that nibabel keeps
    with path.open("rb") as file:
        packed = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        start = inflated_start(file, DATA_OFFSET, name) if packed else file.read(DATA_OFFSET)
    if len(start) < DATA_OFFSET:
        raise InputError(f"{name} is not an MGH file or is cut short: {REPLACE}")
    stated = np.frombuffer(start, fields, 1)[0]
    if stated["version"] != 1:
        raise InputError(f"{name} is not an MGH file or its header is damaged: {REPLACE}")
    if stated["goodRASFlag"] != 1:
        raise InputError(
            f"{name} has an unknown orientation (its goodRASFlag is {int(stated['goodRASFlag'])}): "
            "convert it again from its source"
        )
    shape = tuple(int(side) for side in stated["dims"])
    check_shape(shape, name)
    header: Any = nib.MGHImage.header_class(start[: fields.itemsize])
    try:
        stored_type = header.get_data_dtype()
    except KeyError:
        raise InputError(f"{name} has voxels of a type that MGH does not know: {REPLACE}") from None
    with np.errstate(all="ignore"):
        affine = np.asarray(header.get_affine(), np.float64)
        lengths = np.linalg.norm(stated["Mdc"].astype(np.float64), axis=1)
    check_affine(affine, name)
    check_positive(stated["delta"], name)
    if not (np.abs(lengths - 1) <= UNIT_TOLERANCE).all():
        raise doubtful_directions(stated["delta"], name)
    end = DATA_OFFSET + math.prod(shape) * stored_type.itemsize
    most = end + _MGH_FOOTER + MAX_MGH_TAG_BYTES
    with path.open("rb") as file:
        contents = inflated(file, most, name, surplus=0) if packed else file.read()
    if len(contents) > most:
        raise InputError(f"{name} holds more voxels than its header says ({format_shape(shape)}): {REPLACE}")
    if end > len(contents):
        raise damaged(name)
    # Tags of any length may follow, each by its number; what begins otherwise and is long are voxels left over.
    tags = contents[end + _MGH_FOOTER :]
    if len(tags) > MAX_PADDING_BYTES and int.from_bytes(tags[:4], "big") not in _MGH_TAGS:
        check_size(len(contents) - DATA_OFFSET, shape, stored_type, name)
    return Volume(path, affine, np.ndarray(shape, stored_type, contents, DATA_OFFSET, order="F"))
