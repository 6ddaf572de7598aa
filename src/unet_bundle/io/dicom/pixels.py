"""Voxels of sorted planes: decoded in parallel, cut to the bits that count, rescaled."""

import io
import itertools
import os
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from unet_bundle.errors import InputError
from unet_bundle.io.checks import check_values
from unet_bundle.io.dicom.frames import Frame
from unet_bundle.io.dicom.headers import WORKERS, Header
from unet_bundle.io.dicom.parsing import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    NATIVE,
    element_tag,
    inflated,
)

MAX_VOXELS = 2**31
"""Most voxels of one volume (4 GiB as 16 bits): more is a damaged header."""

_PIXEL_DATA = 0x7FE00010
_UNDEFINED_LENGTH = 0xFFFFFFFF
_ITEM, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE0DD
_LONG_FORM = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"UN")
_REPLACE = "get a fresh copy of it"


@dataclass(frozen=True)
class _Layout:
    """How the samples of a file are stored."""

    rows: int
    columns: int
    stored_type: np.dtype[Any]
    bits_stored: int
    count: int

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.stored_type.itemsize

    @property
    def extent(self) -> tuple[int, int]:
        """Least and greatest value that the stored bits can hold."""
        if self.stored_type.kind == "i":
            return -(2 ** (self.bits_stored - 1)), 2 ** (self.bits_stored - 1) - 1
        return 0, 2**self.bits_stored - 1


def read_voxels(frames: Sequence[Frame], name: str) -> npt.NDArray[Any]:
    """Voxels of planes of one size, rescaled.

    Args:
        frames: the planes, in the order in which they shall be stacked.
        name: what messages call the series.

    Returns:
        Array [planes, rows, columns]; int16 or int32 where every slope is 1 and every intercept whole, else float32.

    Raises:
        InputError: if a file is cut short, cannot be decoded, or holds another picture than its header says; or if a
            value is beyond float32, or a whole number that float32 would round.
    """
    rows, columns = frames[0].shape
    if rows * columns * len(frames) > MAX_VOXELS:
        raise InputError(f"{name} has more than {MAX_VOXELS} voxels: {_REPLACE}")
    by_header: dict[Header, list[tuple[int, Frame]]] = defaultdict(list)
    for place, frame in enumerate(frames):
        by_header[frame.header].append((place, frame))
    layouts = {header: _layout(header) for header in by_header}
    for kind in _voxel_types(frames, layouts):
        voxels = np.empty((len(frames), rows, columns), kind)
        with ThreadPoolExecutor(WORKERS) as pool:
            work = pool.map(_fill, by_header, layouts.values(), by_header.values(), itertools.repeat(voxels))
            if all(work):
                check_values(voxels, name)
                return voxels
    raise InputError(f"{name} has voxel values beyond {kind}: {_REPLACE}")


def padding_value(frame: Frame) -> float | None:
    """PixelPaddingValue in the units of the voxels, or None: what a scanner puts where it has not measured.

    The voxels keep it, as in every converter, so that a network sees what it was trained on. Where the element holds
    what no voxel can, the other end of the padding's range (PixelPaddingRangeLimit, PS3.3 C.7.5.1.1.2) stands for it.
    """
    layout = _layout(frame.header)
    for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit"):
        try:
            value = frame.header.number_of(keyword)
        except InputError:
            continue
        stored = None if value is None or value != int(value) else _stored_value(int(value), layout)
        if stored is not None:
            return stored * frame.slope + frame.intercept
    return None


def _stored_value(value: int, layout: _Layout) -> int | None:
    """A value whose sign may be written in another way than the voxels' (US for SS); None if no voxel can have it."""
    low, high = layout.extent
    allocated = 8 * layout.stored_type.itemsize
    candidates = [value]
    if low < 0 <= value:
        candidates += [value - 2**bits for bits in (allocated, layout.bits_stored) if value < 2**bits]
    elif value < 0:
        candidates.append(value + 2**allocated)
    return next((each for each in candidates if low <= each <= high), None)


def _layout(header: Header) -> _Layout:
    allocated = header.whole("BitsAllocated", 8, 32)
    signed = header.whole("PixelRepresentation", 0, 1)
    stored = header.whole("BitsStored", 1, allocated)
    if allocated not in (8, 16, 32) or header.whole("HighBit", 0, 31, default=stored - 1) != stored - 1:
        raise InputError(f"{header.name} stores its voxels in an unusual layout of bits: export it again")
    order = ">" if header.transfer_syntax == EXPLICIT_BIG else "<"
    stored_type = np.dtype(f"{order}{'i' if signed else 'u'}{allocated // 8}")
    count = header.whole("NumberOfFrames", 0, 2**31, default=1) or 1
    return _Layout(header.whole("Rows", 1, 2**16), header.whole("Columns", 1, 2**16), stored_type, stored, count)


def _voxel_types(frames: Sequence[Frame], layouts: dict[Header, _Layout]) -> list[np.dtype[Any]]:
    """Types to try, the smallest first: which fits is known when the voxels are."""
    if not all(frame.slope == 1 and frame.intercept == int(frame.intercept) for frame in frames):
        return [np.dtype(np.float32)]
    small = all(layout.stored_type.itemsize <= 2 for layout in layouts.values())
    return [*([np.dtype(np.int16)] if small else []), np.dtype(np.int32), np.dtype(np.int64)]


def _fill(header: Header, layout: _Layout, places: Sequence[tuple[int, Frame]], voxels: npt.NDArray[Any]) -> bool:
    """Put the planes of a file to their places in `voxels`; False if a value does not fit its type."""
    place, frame = places[0]
    try:
        if len(places) == 1 and _read_into(header, layout, voxels[place]):
            return _rescale(_significant(voxels[place].view(layout.stored_type), layout), frame, voxels[place])
        pictures = _pictures(header, layout, sorted({frame.index for _, frame in places}))
    except OSError as error:  # its own text would show the path
        raise InputError(f"{header.name} cannot be read ({error.strerror}): check its permissions") from None
    fits = True
    for place, frame in places:
        (top, left), (rows, columns) = frame.corner, frame.shape
        plane = pictures[frame.index][top : top + rows, left : left + columns]
        fits = fits and _rescale(_significant(plane, layout), frame, voxels[place])
    return fits


def _significant(plane: npt.NDArray[Any], layout: _Layout) -> npt.NDArray[Any]:
    """The plane without what other bits may hold (overlays of old files), sign extended."""
    unused = plane.dtype.itemsize * 8 - layout.bits_stored
    if unused <= 0:
        return plane
    low, high = layout.extent
    if plane.min() >= low and plane.max() <= high:
        return plane
    native = plane.astype(plane.dtype.newbyteorder("="))
    shifted: npt.NDArray[Any] = np.right_shift(np.left_shift(native, unused), unused)  # keeps the sign of signed types
    return shifted


def _rescale(plane: npt.NDArray[Any], frame: Frame, into: npt.NDArray[Any]) -> bool:
    """Stored values, which `into` may hold itself, to values in their unit; False if they do not fit."""
    if into.dtype.kind == "f":
        with np.errstate(over="ignore"):  # what comes of it is refused when all is read
            into[...] = plane * np.float64(frame.slope) + frame.intercept
        return True
    limits, intercept = np.iinfo(into.dtype), int(frame.intercept)
    if not limits.min <= intercept <= limits.max:
        return False
    if int(plane.min()) + min(intercept, 0) < limits.min or int(plane.max()) + max(intercept, 0) > limits.max:
        return False
    if not np.may_share_memory(plane, into):
        into[...] = plane
    if intercept:
        into += into.dtype.type(intercept)
    return True


def _read_into(header: Header, layout: _Layout, plane: npt.NDArray[Any]) -> bool:
    """Read the one frame of an uncompressed file straight into its place, if its bytes can stand there as they are."""
    plain = header.source.member is None and header.transfer_syntax in (IMPLICIT_LITTLE, EXPLICIT_LITTLE)
    same = plane.shape == (layout.rows, layout.columns) and plane.dtype.itemsize == layout.stored_type.itemsize
    if not (plain and same and layout.count == 1 and plane.dtype.kind != "f"):
        return False
    with header.source.path.open("rb", buffering=0) as file:
        file.seek(header.pixel_offset or 0)
        start = _start_of_pixels(header, layout, file.read(12))
        file.seek((header.pixel_offset or 0) + start)
        if file.readinto(plane.reshape(-1).view(np.uint8).data) != layout.frame_bytes:
            raise _cut_short(header)
    return True


def _start_of_pixels(header: Header, layout: _Layout, element: bytes) -> int:
    """Where the pixels begin in their element, whose first twelve bytes these are.

    Raises:
        InputError: if it is not as long as the header demands.
    """
    order: Literal["big", "little"] = "big" if header.transfer_syntax == EXPLICIT_BIG else "little"
    start = 12 if header.transfer_syntax != IMPLICIT_LITTLE and element[4:6] in _LONG_FORM else 8
    length = int.from_bytes(element[start - 4 : start], order)
    needed = layout.frame_bytes * layout.count
    # One byte more pads odd lengths; anything else means that size or type in the header are wrong.
    if element_tag(element, header.transfer_syntax) != _PIXEL_DATA or length not in (needed, needed + needed % 2):
        raise _cut_short(header)
    return start


def _cut_short(header: Header) -> InputError:
    return InputError(f"{header.name} is cut short, or its pixels are not those of its header: {_REPLACE}")


def _pictures(header: Header, layout: _Layout, indices: Sequence[int]) -> dict[int, npt.NDArray[Any]]:
    """Decoded frames of a file by their index."""
    try:
        if header.transfer_syntax in NATIVE:
            with header.source.open() as file:
                return _native(header, layout, file, indices)
        contents = header.source.read()
        if header.transfer_syntax == DEFLATED:
            needed = (header.pixel_offset or 0) + 12 + layout.frame_bytes * layout.count
            return _native(header, layout, io.BytesIO(inflated(contents, needed)), indices)
        return _decoded(header, layout, contents, indices)
    except InputError:
        raise
    except NotImplementedError:
        raise InputError(f"{header.name} is in a transfer syntax that is not read: export it uncompressed") from None
    except Exception as error:  # decoders raise many kinds for damaged bytes, with values of the header in them
        if isinstance(error, OSError) and error.errno is not None:  # not a decoder's
            raise
        raise InputError(f"{header.name} is damaged, its voxels cannot be read: {_REPLACE}") from None


def _native(header: Header, layout: _Layout, file: BinaryIO, indices: Sequence[int]) -> dict[int, npt.NDArray[Any]]:
    """Frames of uncompressed pixels; of the file no more is read than they are."""
    offset, needed = header.pixel_offset or 0, layout.frame_bytes * layout.count
    file.seek(offset)
    element = file.read(12)
    start = offset + _start_of_pixels(header, layout, element)
    if file.seek(0, os.SEEK_END) < start + needed:
        raise _cut_short(header)
    shape = (layout.rows, layout.columns)
    if header.transfer_syntax == EXPLICIT_BIG and element[4:6] == b"OW" and layout.stored_type.itemsize == 1:
        file.seek(start)  # two voxels a word
        swapped = np.frombuffer(file.read(needed + needed % 2), "<u2").byteswap().tobytes()
        return {index: np.ndarray(shape, layout.stored_type, swapped, index * layout.frame_bytes) for index in indices}
    pictures = {}
    for index in indices:
        file.seek(start + index * layout.frame_bytes)
        pictures[index] = np.frombuffer(file.read(layout.frame_bytes), layout.stored_type).reshape(shape)
    return pictures


def _decoded(header: Header, layout: _Layout, contents: bytes, indices: Sequence[int]) -> dict[int, npt.NDArray[Any]]:
    from pydicom.pixels.utils import iter_pixels

    if not _is_complete(contents, header.pixel_offset or 0):
        raise _cut_short(header)
    planes = iter_pixels(io.BytesIO(contents), indices=list(indices), raw=True)
    pictures = dict(zip(indices, planes, strict=True))
    if any(picture.shape != (layout.rows, layout.columns) for picture in pictures.values()):
        raise InputError(f"{header.name} holds pictures of another size than its header says: {_REPLACE}")
    return pictures


def _is_complete(contents: bytes, offset: int) -> bool:
    """Whether encapsulated pixel data (PS3.5 A.4) has all its fragments and the mark of its end."""
    place = offset + 12
    if contents[offset + 8 : place] != b"\xff" * 4:
        return False
    while place + 8 <= len(contents):
        tag = element_tag(contents[place : place + 4], "")
        length = int.from_bytes(contents[place + 4 : place + 8], "little")
        if tag == _SEQUENCE_END:
            return True
        if tag != _ITEM or length == _UNDEFINED_LENGTH:
            return False
        place += 8 + length
    return False
