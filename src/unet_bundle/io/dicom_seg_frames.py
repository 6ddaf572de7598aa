"""Frames of a DICOM SEG, which are many (segments times slices): written one after the other, never held at once."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
import numpy.typing as npt

from unet_bundle.errors import InputError
from unet_bundle.io.segments import Segment

if TYPE_CHECKING:
    from pydicom import Dataset

SegmentationType = Literal["BINARY", "LABELMAP", "FRACTIONAL"]

FULL = 255
"""MaximumFractionalValue: what a voxel that lies wholly in its segment has in a FRACTIONAL object."""

MAX_PIXEL_BYTES = 2**32 - 2
"""Longest pixel data that a native transfer syntax can hold."""

_FRAME_GROUPS, _PIXEL_DATA = (0x5200, 0x9230), (0x7FE0, 0x0010)
_INDEX_VALUES = b"\x20\x00\x57\x91UL"  # tag and value representation, before the length of two bytes
_SEGMENT_NUMBER = b"\x62\x00\x0b\x00US"


@dataclass(frozen=True)
class FrameLayout:
    """Which frames an object has.

    Attributes:
        kind: of the object.
        dtype: of its voxels, before those of BINARY are packed.
        frames: for each its segment (0: all) and its plane, in their order.
    """

    kind: SegmentationType
    dtype: np.dtype[Any]
    frames: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, planes: npt.NDArray[Any], segments: Sequence[Segment], kind: SegmentationType) -> FrameLayout:
        """The frames that a label map needs: none of a segment that is not in its plane, but one at least.

        Args:
            planes: the label map, [planes, rows, columns].
            segments: in the order of their values.
            kind: of the object.
        """
        present = [np.bincount(plane.ravel(), minlength=segments[-1].value + 1) > 0 for plane in planes]
        dtype = np.dtype("<u1")
        if kind == "LABELMAP":
            frames = [(0, index) for index, found in enumerate(present) if found[1:].any()]
            dtype = np.dtype("<u1" if segments[-1].value < 256 else "<u2")
        else:
            frames = [
                (each.value, index) for each in segments for index, found in enumerate(present) if found[each.value]
            ]
        empty = (0 if kind == "LABELMAP" else segments[0].value, 0)
        return cls(kind, dtype, tuple(frames) or (empty,))

    @property
    def bits(self) -> int:
        """Bits of a voxel."""
        return 1 if self.kind == "BINARY" else 8 * self.dtype.itemsize

    def pixels(self, planes: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
        """Voxels of each frame, flat; of BINARY 0 and 1, not yet packed."""
        for segment, index in self.frames:
            if self.kind == "LABELMAP":
                yield planes[index].astype(self.dtype).ravel()
            else:
                inside = (planes[index] == segment).view(np.uint8).ravel()
                yield inside if self.bits == 1 else inside * np.uint8(FULL)


def save_frames(skeleton: Dataset, planes: npt.NDArray[Any], layout: FrameLayout, path: Path) -> None:
    """Write the skeleton without frames by pydicom, and behind it the frames, one after the other.

    Args:
        skeleton: the object with the functional groups of each plane in the order of `planes`; it is changed.
        planes: the label map, [planes, rows, columns].
        layout: of its frames.
        path: of the file.

    Raises:
        InputError: if the frames are more than DICOM can hold.
    """
    rows, columns = planes.shape[1:]
    length = math.ceil(len(layout.frames) * rows * columns * layout.bits / 8)
    if length > MAX_PIXEL_BYTES:
        smaller = "nifti" if layout.kind == "LABELMAP" else "dicom-seg-labelmap"
        raise InputError(
            f"a {layout.kind} segmentation of {len(layout.frames)} frames is above the 4 GB that DICOM can hold: "
            f"use output_format {smaller!r}"
        )
    items = _frame_items(skeleton, layout)
    skeleton.Rows, skeleton.Columns, skeleton.NumberOfFrames = rows, columns, len(layout.frames)
    for keyword in ("PerFrameFunctionalGroupsSequence", "PixelData", "DimensionOrganizationType"):
        if keyword in skeleton:
            delattr(skeleton, keyword)
    skeleton.save_as(path)
    with path.open("ab") as file:
        file.write(_element(_FRAME_GROUPS, b"SQ", sum(map(len, items))))
        file.writelines(items)
        file.write(_element(_PIXEL_DATA, b"OB" if layout.bits <= 8 else b"OW", length + length % 2))
        written = _write_bits(file, layout.pixels(planes)) if layout.bits == 1 else _write(file, layout.pixels(planes))
        file.write(bytes(written % 2))


def _element(tag: tuple[int, int], representation: bytes, length: int) -> bytes:
    """Start of an element in explicit little endian with a length of four bytes."""
    return struct.pack("<HH2s2xI", *tag, representation, length)


def _write(file: BinaryIO, frames: Iterator[npt.NDArray[Any]]) -> int:
    return sum(file.write(frame.tobytes()) for frame in frames)


def _write_bits(file: BinaryIO, frames: Iterator[npt.NDArray[Any]]) -> int:
    """Write voxels as bits, the first the lowest; a frame begins in the byte where the last ended (PS3.5 8.2)."""
    rest = np.empty(0, np.uint8)
    written = 0
    for frame in frames:
        voxels = np.concatenate([rest, frame]) if rest.size else frame
        whole = voxels.size // 8 * 8
        written += file.write(np.packbits(voxels[:whole], bitorder="little").tobytes())
        rest = voxels[whole:]
    return written + file.write(np.packbits(rest, bitorder="little").tobytes())


def _frame_items(skeleton: Dataset, layout: FrameLayout) -> list[bytes]:
    """The functional groups of every frame, as items of a sequence: those of its plane, with its numbers put in."""
    templates = [_item(groups) for groups in skeleton.PerFrameFunctionalGroupsSequence]
    used = sorted({index for _, index in layout.frames})
    place = {index: number for number, index in enumerate(used, 1)}
    items = []
    for segment, index in layout.frames:
        item = bytearray(templates[index])
        # Dimension indices: the segment's number, and the plane's place among those that have a frame.
        values = [place[index]] if layout.kind == "LABELMAP" else [segment, place[index]]
        _put(item, _INDEX_VALUES, np.array(values, "<u4").tobytes())
        if _SEGMENT_NUMBER in item:  # of a single segment it stands in the shared groups
            _put(item, _SEGMENT_NUMBER, segment.to_bytes(2, "little"))
        items.append(bytes(item))
    return items


def _put(item: bytearray, element: bytes, value: bytes) -> None:
    start = item.index(element + len(value).to_bytes(2, "little")) + len(element) + 2
    item[start : start + len(value)] = value


def _item(dataset: Dataset) -> bytes:
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_sequence_item

    buffer = DicomBytesIO()
    buffer.is_little_endian, buffer.is_implicit_VR = True, False
    write_sequence_item(buffer, dataset, ["iso8859"])
    return bytes(buffer.getvalue())
