"""Headers of NRRD files."""

import re

import numpy as np

from unet_bundle.errors import InputError
from unet_bundle.geometry import Affine, check_affine, lps_to_ras
from unet_bundle.io.checks import REPLACE, SPATIAL_AXES, colored
from unet_bundle.io.volume_headers import (
    VolumeHeader,
    bad_axes,
    bad_header,
    beside,
    check_unit,
    numbers,
    unknown_orientation,
    unknown_position,
    whole_numbers,
    with_byte_order,
)

NRRD_SPACES = {
    "right-anterior-superior": "RAS",
    "left-anterior-superior": "LAS",
    "left-posterior-superior": "LPS",
}
"""The spaces of an NRRD file that are a patient's; "scanner-xyz" and "3D-right-handed" say nothing of one."""

_NRRD_FIELDS = frozenset(
    (
        *("content", "number", "type", "dimension", "space", "space dimension", "sizes", "spacings", "thicknesses"),
        *("axis mins", "axis maxs", "centers", "centerings", "labels", "units", "min", "max", "old min", "old max"),
        *("block size", "endian", "encoding", "data file", "line skip", "byte skip", "sample units", "space units"),
        *("space origin", "space directions", "measurement frame", "kinds"),
    )
)
_NRRD_SYNONYMS = {field.replace(" ", ""): field for field in _NRRD_FIELDS if not field.startswith("space ")}
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
_SPACE_KINDS = {"domain", "space", "none", "???"}
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
        raise bad_header(name, "NRRD")
    sizes = whole_numbers(fields.get("sizes"), name, "NRRD")
    if [len(sizes)] != whole_numbers(fields.get("dimension"), name, "NRRD"):
        raise bad_header(name, "NRRD")
    affine, channel_axis = _nrrd_geometry(fields, sizes, name)
    _check_kinds(fields, len(sizes), channel_axis, name)
    if channel_axis is not None and sizes[channel_axis] > 1 and any(re.match(r"Segment\d+_", key) for key in keys):
        raise InputError(
            f"{name} has {sizes[channel_axis]} layers of segments that overlap: export them as one label map"
        )
    encoding = fields.get("encoding", "").lower()
    if encoding not in ("raw", "gzip", "gz") or any(
        fields.get(skip, "0") != "0" for skip in ("line skip", "byte skip")
    ):
        raise InputError(f"{name} has voxels that are not one raw or gzip stream: save it again, raw or gzip")
    stored_type = _NRRD_TYPES.get(" ".join(fields.get("type", "").lower().split()))
    if stored_type is None:
        raise InputError(f"{name} has voxels of a type that is no number: export the scan's values")
    order = {"little": False, "big": True}.get(fields.get("endian", "").lower())
    return VolumeHeader(
        tuple(sizes),
        with_byte_order(stored_type, order, name),
        affine,
        channel_axis,
        None if data_file is None else beside(data_file, name),
        0 if end is None or data_file is not None else end.end(),
        encoding != "raw",
    )


def _nrrd_fields(header: bytes, name: str) -> tuple[dict[str, str], set[str]]:
    """Fields by their lower-case names, and the names of the key/value pairs."""
    fields: dict[str, str] = {}
    keys: set[str] = set()
    for line in re.split(r"\r?\n", header.decode("latin-1"))[1:]:
        if line.startswith("#") or not line.strip():
            continue
        pair, field = line.partition(":="), line.partition(": ")
        if pair[1] and (not field[1] or len(pair[0]) < len(field[0])):
            keys.add(pair[0])
            continue
        label = _NRRD_SYNONYMS.get(field[0].lower(), field[0].lower())
        if not field[1] or label not in _NRRD_FIELDS or label in fields:
            raise bad_header(name, "NRRD")
        fields[label] = field[2].strip()
    return fields, keys


def _nrrd_geometry(fields: dict[str, str], sizes: list[int], name: str) -> tuple[Affine, int | None]:
    """The RAS affine, and which axis has no direction."""
    space = fields.get("space", "").lower()
    space = NRRD_SPACES.get(space, space.upper())
    if space not in NRRD_SPACES.values() or "space directions" not in fields:
        stated = f"its space is {fields['space']!r}" if "space" in fields else "it states no space"
        reason = stated if space not in NRRD_SPACES.values() else "it states no directions"
        raise unknown_orientation(name, reason)
    if "space origin" not in fields:
        raise unknown_position(name)
    units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    check_unit(*units, name=name)
    directions = re.findall(r"none|\([^()]*\)", fields["space directions"])
    channel_axes = [axis for axis, direction in enumerate(directions) if direction == "none"]
    columns = [numbers(direction[1:-1], name, "NRRD") for direction in directions if direction != "none"]
    origin = numbers(fields["space origin"].strip("()"), name, "NRRD")
    if len(directions) != len(sizes) or any(len(vector) != SPATIAL_AXES for vector in (*columns, origin)):
        raise bad_header(name, "NRRD")
    if len(columns) != SPATIAL_AXES or len(channel_axes) > 1:
        raise bad_axes(name, len(columns))
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = np.transpose(columns), origin
    check_affine(affine, name)
    affine = {"RAS": affine, "LPS": lps_to_ras(affine), "LAS": np.diag([-1.0, 1.0, 1.0, 1.0]) @ affine}[space]
    return affine, channel_axes[0] if channel_axes else None


def _check_kinds(fields: dict[str, str], axes: int, channel_axis: int | None, name: str) -> None:
    """Refuse what is no intensity: colours, tensors and the like."""
    kinds = fields["kinds"].lower().split() if "kinds" in fields else ["none"] * axes
    if len(kinds) != axes:
        raise bad_header(name, "NRRD")
    kind = "none" if channel_axis is None else kinds.pop(channel_axis)
    if kind in _COLOR_KINDS:
        raise colored(name)
    if kind not in _CHANNEL_KINDS:
        raise InputError(f"{name} has voxels of kind {kind!r}, not intensities: export the scan's values")
    if not _SPACE_KINDS.issuperset(kinds):
        raise bad_header(name, "NRRD")
