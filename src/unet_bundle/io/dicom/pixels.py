"""Voxels of sorted planes: decoded in parallel, cut to the bits that count, rescaled."""

import io
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.frames import Frame
from unet_bundle.io.dicom.headers import (
    DEFLATED,
    EXPLICIT_BIG,
    IMPLICIT_LITTLE,
    NATIVE,
    WORKERS,
    Header,
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
        InputError: if a file is cut short, cannot be decoded, or holds another picture than its header says.
    """
    rows, columns = frames[0].shape
    if rows * columns * len(frames) > MAX_VOXELS:
        raise InputError(f"{name} has more than {MAX_VOXELS} voxels: {_REPLACE}")
    by_header: dict[Header, list[tuple[int, Frame]]] = defaultdict(list)
    for place, frame in enumerate(frames):
        by_header[frame.header].append((place, frame))
    layouts = {header: _layout(header) for header in by_header}
    voxels = np.empty((len(frames), rows, columns), _voxel_type(frames, layouts))

    def fill(header: Header) -> None:
        layout = layouts[header]
        pictures = _pictures(header, layout, sorted({frame.index for _, frame in by_header[header]}))
        for place, frame in by_header[header]:
            top, left = frame.corner
            plane = pictures[frame.index][top : top + rows, left : left + columns]
            _rescale(_significant(plane, layout), frame, voxels[place])

    with ThreadPoolExecutor(WORKERS) as pool:
        for _ in pool.map(fill, by_header):
            pass
    return voxels


def padding_value(frame: Frame) -> float | None:
    """PixelPaddingValue in the units of the voxels, or None: what a scanner puts where it has not measured.

    The voxels keep it, as in every converter, so that a network sees what it was trained on.
    """
    value = frame.header.number_of("PixelPaddingValue")
    return None if value is None else value * frame.slope + frame.intercept


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


def _voxel_type(frames: Sequence[Frame], layouts: dict[Header, _Layout]) -> np.dtype[Any]:
    if any(frame.slope != 1 or frame.intercept != int(frame.intercept) for frame in frames):
        return np.dtype(np.float32)
    low = min(layouts[frame.header].extent[0] + int(frame.intercept) for frame in frames)
    high = max(layouts[frame.header].extent[1] + int(frame.intercept) for frame in frames)
    for kind in (np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.float32)


def _significant(plane: npt.NDArray[Any], layout: _Layout) -> npt.NDArray[Any]:
    """The plane without what other bits may hold (overlays of old files), sign extended."""
    unused = plane.dtype.itemsize * 8 - layout.bits_stored
    if unused <= 0:
        return plane
    low, high = layout.extent
    if plane.min() >= low and plane.max() <= high:
        return plane
    native = plane.astype(plane.dtype.newbyteorder("="))
    return np.right_shift(np.left_shift(native, unused), unused)  # arithmetic for signed types


def _rescale(plane: npt.NDArray[Any], frame: Frame, into: npt.NDArray[Any]) -> None:
    if into.dtype.kind == "f":
        into[...] = plane * np.float64(frame.slope) + frame.intercept
    elif frame.intercept == 0:
        into[...] = plane
    else:
        np.add(plane, into.dtype.type(frame.intercept), out=into, dtype=into.dtype, casting="unsafe")


def _pictures(header: Header, layout: _Layout, indices: Sequence[int]) -> dict[int, npt.NDArray[Any]]:
    """Decoded frames of a file by their index."""
    damaged = InputError(f"{header.name} is damaged or cut short, its voxels cannot be read: {_REPLACE}")
    try:
        contents = header.source.read()
        if header.transfer_syntax == DEFLATED:
            contents = inflated(contents)
        if header.transfer_syntax in (*NATIVE, DEFLATED):
            return _native(header, layout, contents, indices)
        if not _is_complete(contents, header.pixel_offset or 0):
            raise damaged
        return _decoded(header, layout, contents, indices)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error):
        raise damaged from None
    except InputError:
        raise
    except MemoryError:
        raise damaged from None
    except NotImplementedError:
        raise InputError(f"{header.name} is in a transfer syntax that is not read: export it uncompressed") from None
    except Exception as error:  # noqa: BLE001 - decoders raise many kinds for damaged bytes; all mean the same
        raise damaged from error


def _native(header: Header, layout: _Layout, contents: bytes, indices: Sequence[int]) -> dict[int, npt.NDArray[Any]]:
    offset = header.pixel_offset or 0
    big = header.transfer_syntax == EXPLICIT_BIG
    order: Literal["big", "little"] = "big" if big else "little"
    start = offset + 8
    if header.transfer_syntax != IMPLICIT_LITTLE and contents[offset + 4 : offset + 6] in _LONG_FORM:
        start = offset + 12
    length = int.from_bytes(contents[start - 4 : start], order)
    tag = element_tag(contents[offset : offset + 4], header.transfer_syntax)
    needed = layout.frame_bytes * layout.count
    # One byte more pads odd lengths; anything else means that size or type in the header are wrong.
    if tag != _PIXEL_DATA or length not in (needed, needed + needed % 2) or len(contents) < start + needed:
        raise InputError(f"{header.name} is cut short, or its pixels are not those of its header: {_REPLACE}")
    shape = (layout.rows, layout.columns)
    swapped = big and layout.stored_type.itemsize == 1 and contents[offset + 4 : offset + 6] == b"OW"
    if swapped:
        contents = contents[:start] + np.frombuffer(contents, "<u2", needed // 2, start).byteswap().tobytes()
    return {
        index: np.ndarray(shape, layout.stored_type, contents, start + index * layout.frame_bytes) for index in indices
    }


def _decoded(header: Header, layout: _Layout, contents: bytes, indices: Sequence[int]) -> dict[int, npt.NDArray[Any]]:
    from pydicom.pixels import iter_pixels

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
