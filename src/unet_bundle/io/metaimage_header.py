"""Headers of MetaImage files."""

import re

import numpy as np

from unet_bundle.errors import InputError
from unet_bundle.geometry import Affine, check_affine, lps_to_ras
from unet_bundle.io.checks import REPLACE, SPATIAL_AXES, colored
from unet_bundle.io.volume_headers import (
    UNIT_TOLERANCE,
    VolumeHeader,
    bad_axes,
    bad_header,
    beside,
    check_positive,
    check_unit,
    doubtful_directions,
    numbers,
    unknown_orientation,
    unknown_position,
    whole_numbers,
    with_byte_order,
)

_META_TYPES = (
    {"MET_CHAR": "i1", "MET_SHORT": "i2", "MET_INT": "i4", "MET_LONG": "i4", "MET_LONG_LONG": "i8"}
    | {"MET_UCHAR": "u1", "MET_USHORT": "u2", "MET_UINT": "u4", "MET_ULONG": "u4", "MET_ULONG_LONG": "u8"}
    | {"MET_FLOAT": "f4", "MET_DOUBLE": "f8"}
)
_META_SYNONYMS = {
    "Rotation": "TransformMatrix",
    "Orientation": "TransformMatrix",
    "Position": "Offset",
    "Origin": "Offset",
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
_UNSCALED = {"ElementToIntensityFunctionSlope": 1.0, "ElementToIntensityFunctionOffset": 0.0}
_TRUTHS = {"true": True, "1": True, "false": False, "0": False}


def parse_metaimage(start: bytes, name: str) -> VolumeHeader:
    """The header of a MetaImage file (itk.org/Wiki/ITK/MetaIO), whose directions are those of LPS.

    Args:
        start: the first `MAX_HEADER_BYTES` of the file, or all of it.
        name: base name of the file.

    Raises:
        InputError: if it is damaged; if orientation, position, voxel size or byte order are missing; if the unit is
            not mm; if the voxels are colours, to be scaled, or stored in another way than as one raw or zlib stream.
    """
    end = re.search(rb"^ElementDataFile[ \t]*=[^\r\n]*(\r?\n|$)", start, re.MULTILINE)
    if end is None or not re.match(rb"[A-Za-z]+[ \t]*=", start):
        raise InputError(f"{name} is not a MetaImage file or its header is damaged: {REPLACE}")
    fields = _meta_fields(start[: end.end()], name)
    if fields.get("ObjectType", "Image") != "Image":
        raise InputError(f"{name} is a MetaIO file of another object than an image: give an image")
    shape = whole_numbers(fields.get("DimSize"), name, "MetaImage")
    if [len(shape)] != whole_numbers(fields.get("NDims"), name, "MetaImage"):
        raise bad_header(name, "MetaImage")
    affine = _meta_geometry(fields, shape, name)
    channels = whole_numbers(fields.get("ElementNumberOfChannels", "1"), name, "MetaImage")[0]
    stored_type = _META_TYPES.get(fields.get("ElementType", ""))
    if stored_type is None:
        raise InputError(f"{name} has voxels of a type that is no number: export the scan's values")
    if channels in (3, 4) and stored_type == "u1":
        raise colored(name)
    if channels > 1 and len(shape) > SPATIAL_AXES:
        raise bad_axes(name, len(shape))
    if any(label in fields and numbers(fields[label], name, "MetaImage") != [one] for label, one in _UNSCALED.items()):
        raise InputError(
            f"{name} states a scaling of its voxels, which programs read in different ways: save it scaled"
        )
    data_file = fields["ElementDataFile"]
    binary = _truth(fields, "BinaryData", True, name)
    if not binary or fields.get("HeaderSize", "0") != "0":
        raise InputError(f"{name} has voxels that are not one raw or zlib stream: save it again in binary")
    local = data_file.upper() == "LOCAL"
    return VolumeHeader(
        (channels, *shape) if channels > 1 else tuple(shape),
        with_byte_order(stored_type, _truth(fields, "BinaryDataByteOrderMSB", None, name), name),
        affine,
        0 if channels > 1 else (SPATIAL_AXES if len(shape) > SPATIAL_AXES else None),
        None if local else beside(data_file, name),
        end.end() if local else 0,
        bool(_truth(fields, "CompressedData", False, name)),
    )


def _meta_fields(header: bytes, name: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in re.split(r"\r?\n", header.decode("latin-1")):
        field = line.partition("=")
        label = _META_SYNONYMS.get(field[0].strip(), field[0].strip())
        if not line.strip():
            continue
        if not field[1] or label in fields:
            raise bad_header(name, "MetaImage")
        fields[label] = field[2].strip()
    return fields


def _meta_geometry(fields: dict[str, str], shape: list[int], name: str) -> Affine:
    if "TransformMatrix" not in fields:
        raise unknown_orientation(name, "it states no TransformMatrix")
    if "Offset" not in fields:
        raise unknown_position(name)
    rank = len(shape)
    if rank not in (SPATIAL_AXES, SPATIAL_AXES + 1):
        raise bad_axes(name, rank)
    sizes = fields.get("ElementSpacing", fields.get("ElementSize"))
    if sizes is None:
        raise InputError(f"{name} states no voxel size: convert it again from its source")
    check_unit(fields.get("DistanceUnits", "mm"), name=name)
    matrix, offset, spacing = (
        numbers(text, name, "MetaImage") for text in (fields["TransformMatrix"], fields["Offset"], sizes)
    )
    if len(matrix) != rank**2 or len(offset) != rank or len(spacing) != rank:
        raise bad_header(name, "MetaImage")
    check_positive(spacing[:SPATIAL_AXES], name)
    directions = np.reshape(matrix, (rank, rank)).T
    lengths = np.linalg.norm(directions, axis=0)
    if not (np.abs(lengths - 1) <= UNIT_TOLERANCE).all():  # False for NaN, too
        raise doubtful_directions(spacing[:SPATIAL_AXES], name)
    if rank > SPATIAL_AXES and (directions[3, :3].any() or directions[:3, 3].any()):
        raise InputError(f"{name} has a fourth axis that is one of space: split it into volumes")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions[:3, :3] * spacing[:3], offset[:3]
    check_affine(affine, name)
    return lps_to_ras(affine)


def _truth(fields: dict[str, str], label: str, default: bool | None, name: str) -> bool | None:
    if label not in fields:
        return default
    if fields[label].lower() not in _TRUTHS:
        raise bad_header(name, "MetaImage")
    return _TRUTHS[fields[label].lower()]
