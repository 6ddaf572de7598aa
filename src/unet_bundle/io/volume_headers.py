"""Headers of NRRD and MetaImage files, taken literally: what they do not state is not assumed.

ITK and SimpleITK fill in what is missing (an identity orientation, the origin 0, a unit) and read a damaged MetaImage
stream as other voxels without an error, so they serve the tests only.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet_bundle.errors import InputError
from unet_bundle.geometry import Affine, check_affine, lps_to_ras
from unet_bundle.io.checks import REPLACE, SPATIAL_AXES, colored

MAX_HEADER_BYTES = 2**22
"""How much of a file is searched for the end of its header: names of thousands of segments fit."""

UNIT_TOLERANCE = 1e-3
"""How far a direction may be from unit length: headers are rounded to a few digits."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf)", re.IGNORECASE)
_WHOLE = re.compile(r"\d{1,18}")


@dataclass(frozen=True)
class VolumeHeader:
    """What a header says of its voxels.

    Attributes:
        shape: along every axis of the file, the fastest first.
        stored_type: of the voxels, with the byte order.
        affine: 4x4, index along the three spatial axes to mm, RAS.
        channel_axis: axis of the file that is not one of space; None: there is none.
        data_file: base name of the file of the voxels; None: they follow the header.
        offset: where the voxels begin in their file, bytes.
        compressed: whether they are a gzip or zlib stream.
    """

    shape: tuple[int, ...]
    stored_type: np.dtype[Any]
    affine: Affine
    channel_axis: int | None
    data_file: str | None
    offset: int
    compressed: bool

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape with the axes of space first."""
        if self.channel_axis is None:
            return self.shape
        spatial = (side for axis, side in enumerate(self.shape) if axis != self.channel_axis)
        return (*spatial, self.shape[self.channel_axis])


NRRD_SPACES = {
    "right-anterior-superior": "RAS",
    "left-anterior-superior": "LAS",
    "left-posterior-superior": "LPS",
}
"""The spaces of an NRRD file that are a patient's; "scanner-xyz" and "3D-right-handed" say nothing of one."""

_NRRD_FIELDS = frozenset(
    "content|number|type|dimension|space|space dimension|sizes|spacings|thicknesses|axis mins|axis maxs|centers"
    "|centerings|labels|units|min|max|old min|old max|block size|endian|encoding|data file|line skip|byte skip"
    "|sample units|space units|space origin|space directions|measurement frame|kinds".split("|")
)
_NRRD_SYNONYMS = {
    **{"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip", "axismins": "axis mins"},
    **{"axismaxs": "axis maxs", "oldmin": "old min", "oldmax": "old max", "blocksize": "block size"},
    "sampleunits": "sample units",
}
_INTEGERS = {1: ("char", "int8", "int8_t"), 2: ("short", "short int", "int16", "int16_t")} | {
    4: ("int", "int32", "int32_t"),
    8: ("longlong", "long long", "long long int", "int64", "int64_t"),
}
_NRRD_TYPES = {"float": "f4", "double": "f8", "uchar": "u1", "ushort": "u2", "uint": "u4", "ulonglong": "u8"} | {
    prefix + name: f"{kind}{size}"
    for size, names in _INTEGERS.items()
    for name in names
    for prefix, kind in (("signed ", "i"), ("unsigned ", "u"), ("u", "u"), ("", "i"))
    if not (name == "char" and not prefix)
}
_COLOR_KINDS = {"rgb-color", "rgba-color", "hsv-color", "xyz-color", "3-color", "4-color"}
_CHANNEL_KINDS = {"list", "vector", "time", "stub", "scalar", "2-vector", "3-vector", "4-vector", "none", "???"}


def parse_nrrd(start: bytes, name: str) -> VolumeHeader:
    """The header of an NRRD file (teem.sourceforge.net/nrrd/format.html).

    Args:
        start: the first `MAX_HEADER_BYTES` of the file, or all of it.
        name: base name of the file.

    Raises:
        InputError: if it is damaged; if orientation, origin or byte order are missing or in a space that is no
            patient's; if the unit is not mm; if the voxels are colours, layers of segments, or stored in another way
            than as one raw or gzip stream.
    """
    if not re.match(rb"NRRD000[1-6]\r?\n", start):
        raise InputError(f"{name} is not an NRRD file or its header is damaged: {REPLACE}")
    end = re.search(rb"\r?\n\r?\n", start)
    fields, keys = _nrrd_fields(start[: end.start()] if end else start, name)
    data_file = fields.get("data file")
    if end is None and data_file is None:
        raise _bad_header(name, "NRRD")
    sizes = _whole_numbers(fields.get("sizes"), name, "NRRD")
    if [len(sizes)] != _whole_numbers(fields.get("dimension"), name, "NRRD"):
        raise _bad_header(name, "NRRD")
    affine, channel_axis = _nrrd_geometry(fields, sizes, name)
    if channel_axis is not None:
        kinds = fields.get("kinds", "").lower().split()
        _check_channel_kind(kinds[channel_axis] if len(kinds) == len(sizes) else "none", name)
        if sizes[channel_axis] > 1 and any(re.match(r"Segment\d+_", key) for key in keys):
            raise InputError(
                f"{name} has {sizes[channel_axis]} layers of segments that overlap: export them as one label map"
            )
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz") or any(fields.get(skip, "0") != "0" for skip in ("line skip", "byte skip")):
        raise InputError(f"{name} has voxels that are not one raw or gzip stream: save it again, raw or gzip")
    stored_type = _NRRD_TYPES.get(" ".join(fields.get("type", "").lower().split()))
    if stored_type is None:
        raise InputError(f"{name} has voxels of a type that is no number: export the scan's values")
    order = {"little": False, "big": True}.get(fields.get("endian", "").lower())
    return VolumeHeader(
        tuple(sizes),
        _with_byte_order(stored_type, order, name),
        affine,
        channel_axis,
        None if data_file is None else _beside(data_file, name),
        0 if end is None or data_file is not None else end.end(),
        encoding != "raw",
    )


def _nrrd_fields(header: bytes, name: str) -> tuple[dict[str, str], set[str]]:
    """Fields by their lower-case names, and the names of the key/value pairs."""
    fields: dict[str, str] = {}
    keys: set[str] = set()
    for line in header.decode("latin-1").splitlines()[1:]:
        if line.startswith("#") or not line.strip():
            continue
        pair, field = line.partition(":="), line.partition(": ")
        if pair[1] and (not field[1] or len(pair[0]) < len(field[0])):
            keys.add(pair[0])
            continue
        label = _NRRD_SYNONYMS.get(field[0].lower(), field[0].lower())
        if not field[1] or label not in _NRRD_FIELDS or label in fields:
            raise _bad_header(name, "NRRD")
        fields[label] = field[2].strip()
    return fields, keys


def _nrrd_geometry(fields: dict[str, str], sizes: list[int], name: str) -> tuple[Affine, int | None]:
    """The RAS affine, and which axis has no direction."""
    space = fields.get("space", "").lower()
    space = NRRD_SPACES.get(space, space.upper())
    if space not in NRRD_SPACES.values() or "space directions" not in fields:
        stated = f"its space is {fields['space']!r}" if "space" in fields else "it states no space"
        reason = stated if space not in NRRD_SPACES.values() else "it states no directions"
        raise _unknown_orientation(name, reason)
    if "space origin" not in fields:
        raise _unknown_position(name)
    units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    _check_unit(*units, name=name)
    directions = re.findall(r"none|\([^()]*\)", fields["space directions"])
    channel_axes = [axis for axis, direction in enumerate(directions) if direction == "none"]
    columns = [_numbers(direction[1:-1], name, "NRRD") for direction in directions if direction != "none"]
    origin = _numbers(fields["space origin"].strip("()"), name, "NRRD")
    if len(directions) != len(sizes) or any(len(vector) != SPATIAL_AXES for vector in (*columns, origin)):
        raise _bad_header(name, "NRRD")
    if len(columns) != SPATIAL_AXES or len(channel_axes) > 1:
        raise _bad_axes(name, len(columns))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.transpose(columns), origin
    affine = {"RAS": affine, "LPS": lps_to_ras(affine), "LAS": np.diag([-1.0, 1.0, 1.0, 1.0]) @ affine}[space]
    check_affine(affine, name)
    return affine, channel_axes[0] if channel_axes else None


def _check_channel_kind(kind: str, name: str) -> None:
    if kind in _COLOR_KINDS:
        raise colored(name)
    if kind not in _CHANNEL_KINDS:
        raise InputError(f"{name} has voxels of kind {kind!r}, not intensities: export the scan's values")


_META_TYPES = {
    **{"MET_CHAR": "i1", "MET_SHORT": "i2", "MET_INT": "i4", "MET_LONG": "i4", "MET_LONG_LONG": "i8"},
    **{"MET_UCHAR": "u1", "MET_USHORT": "u2", "MET_UINT": "u4", "MET_ULONG": "u4", "MET_ULONG_LONG": "u8"},
    **{"MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
_META_SYNONYMS = {
    **{"Rotation": "TransformMatrix", "Orientation": "TransformMatrix", "Position": "Offset", "Origin": "Offset"},
    "ElementByteOrderMSB": "BinaryDataByteOrderMSB",
}
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
    shape = _whole_numbers(fields.get("DimSize"), name, "MetaImage")
    if [len(shape)] != _whole_numbers(fields.get("NDims"), name, "MetaImage"):
        raise _bad_header(name, "MetaImage")
    affine = _meta_geometry(fields, shape, name)
    channels = _whole_numbers(fields.get("ElementNumberOfChannels", "1"), name, "MetaImage")[0]
    stored_type = _META_TYPES.get(fields.get("ElementType", ""))
    if stored_type is None:
        raise InputError(f"{name} has voxels of a type that is no number: export the scan's values")
    if channels in (3, 4) and stored_type == "u1":
        raise colored(name)
    if channels > 1 and len(shape) > SPATIAL_AXES:
        raise _bad_axes(name, len(shape))
    scaling = [fields.get(f"ElementToIntensityFunction{part}") for part in ("Slope", "Offset")]
    if any(value is not None and _numbers(value, name, "MetaImage") != [one] for value, one in zip(scaling, (1, 0))):
        raise InputError(f"{name} states a scaling of its voxels, which programs read in different ways: save it scaled")
    data_file = fields["ElementDataFile"]
    binary = _truth(fields, "BinaryData", True, name)
    if not binary or fields.get("HeaderSize", "0") != "0":
        raise InputError(f"{name} has voxels that are not one raw or zlib stream: save it again in binary")
    local = data_file.upper() == "LOCAL"
    return VolumeHeader(
        (channels, *shape) if channels > 1 else tuple(shape),
        _with_byte_order(stored_type, _truth(fields, "BinaryDataByteOrderMSB", None, name), name),
        affine,
        0 if channels > 1 else (SPATIAL_AXES if len(shape) > SPATIAL_AXES else None),
        None if local else _beside(data_file, name),
        end.end() if local else 0,
        bool(_truth(fields, "CompressedData", False, name)),
    )


def _meta_fields(header: bytes, name: str) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in header.decode("latin-1").splitlines():
        field = line.partition("=")
        label = _META_SYNONYMS.get(field[0].strip(), field[0].strip())
        if not line.strip():
            continue
        if not field[1] or label in fields:
            raise _bad_header(name, "MetaImage")
        fields[label] = field[2].strip()
    return fields


def _meta_geometry(fields: dict[str, str], shape: list[int], name: str) -> Affine:
    if "TransformMatrix" not in fields:
        raise _unknown_orientation(name, "it states no TransformMatrix")
    if "Offset" not in fields:
        raise _unknown_position(name)
    rank = len(shape)
    if rank not in (SPATIAL_AXES, SPATIAL_AXES + 1):
        raise _bad_axes(name, rank)
    sizes = fields.get("ElementSpacing", fields.get("ElementSize"))
    if sizes is None:
        raise InputError(f"{name} states no voxel size: convert it again from its source")
    _check_unit(fields.get("DistanceUnits", "mm"), name=name)
    matrix, offset, spacing = (
        _numbers(text, name, "MetaImage") for text in (fields["TransformMatrix"], fields["Offset"], sizes)
    )
    if len(matrix) != rank**2 or len(offset) != rank or len(spacing) != rank:
        raise _bad_header(name, "MetaImage")
    directions = np.reshape(matrix, (rank, rank)).T
    lengths = np.linalg.norm(directions, axis=0)
    if not (np.abs(lengths - 1) <= UNIT_TOLERANCE).all():  # False for NaN, too
        raise InputError(f"{name} has directions that are not of unit length: save it again from its source")
    if rank > SPATIAL_AXES and (directions[3, :3].any() or directions[:3, 3].any()):
        raise InputError(f"{name} has a fourth axis that is one of space: split it into volumes")
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = directions[:3, :3] * spacing[:3], offset[:3]
    affine = lps_to_ras(affine)
    check_affine(affine, name)
    return affine


def _truth(fields: dict[str, str], label: str, default: bool | None, name: str) -> bool | None:
    if label not in fields:
        return default
    if fields[label].lower() not in _TRUTHS:
        raise _bad_header(name, "MetaImage")
    return _TRUTHS[fields[label].lower()]


def _with_byte_order(stored_type: str, big: bool | None, name: str) -> np.dtype[Any]:
    if big is None and not stored_type.endswith("1"):
        raise InputError(f"{name} does not state the byte order of its voxels: save it again from its source")
    return np.dtype((">" if big else "<") + stored_type)


def _numbers(text: str, name: str, kind: str) -> list[float]:
    parts = text.replace(",", " ").split()
    if not all(_NUMBER.fullmatch(part) for part in parts):
        raise _bad_header(name, kind)
    return [float(part) for part in parts]


def _whole_numbers(text: str | None, name: str, kind: str) -> list[int]:
    parts = (text or "").split()
    if not parts or not all(_WHOLE.fullmatch(part) for part in parts):
        raise _bad_header(name, kind)
    return [int(part) for part in parts]


def _check_unit(*units: str, name: str) -> None:
    for unit in units:
        if unit.strip().lower() not in ("mm", "millimeter", "millimetre", "", "?"):
            raise InputError(f"{name} says that its voxel sizes are in {unit}: save it in millimetres")


def _beside(data_file: str, name: str) -> str:
    """The base name of the file of the voxels, which has to lie in the header's folder."""
    if data_file.upper().startswith("LIST") or "%" in data_file or len(data_file.split()) > 1 and "." not in data_file:
        raise InputError(f"{name} has its voxels in several files: save it as one")
    if not data_file or data_file in (".", "..") or re.search(r"[/\\\0]", data_file):
        raise InputError(f"{name} names a voxel file that is not beside it: put both into one folder, by base name")
    return Path(data_file).name


def _bad_header(name: str, kind: str) -> InputError:
    return InputError(f"{name} has a damaged {kind} header: {REPLACE}")


def _bad_axes(name: str, axes: int) -> InputError:
    return InputError(f"{name} has {axes} axes of space, not 3: save it as a volume, a plane as one of one slice")


def _unknown_orientation(name: str, reason: str) -> InputError:
    return InputError(f"{name} has an unknown orientation ({reason}): convert it again from its source")


def _unknown_position(name: str) -> InputError:
    return InputError(f"{name} states no position in space (its origin): convert it again from its source")
