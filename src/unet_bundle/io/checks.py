"""What every reader of volumes asks of a file: real numbers, complete, in the shape of an image."""

import math
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from unet_bundle.errors import InputError
from unet_bundle.geometry import Affine, format_shape, grid_difference

SPATIAL_AXES = 3

MAX_EXACT = 2**24
"""The whole numbers up to this one are told apart in float32, which voxels become."""

MAX_PADDING_BYTES = 512
"""How many bytes may follow the voxels: more means that shape or type in the header are wrong."""

GZIP_MAGIC = b"\x1f\x8b"

REPLACE = "get a fresh copy of it"
"""What to do about a damaged file, for messages."""

_CHUNK_BYTES = 2**20
_ANY_WRAPPER = 32 + zlib.MAX_WBITS  # zlib's own number for: gzip or zlib, whichever the data begin with


@contextmanager
def opening(name: str, kind: str = "file") -> Iterator[None]:
    """Turn the errors of opening and reading a file into refusals.

    Args:
        name: base name of the file.
        kind: what to give in place of a folder, as ``"NIfTI file"``.

    Raises:
        InputError: if the file is missing, a folder or cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{name} does not exist: check the path") from None
    except IsADirectoryError:
        raise InputError(f"{name} is a folder: give a {kind}") from None
    except OSError as error:  # its own text would show the folder
        raise InputError(f"{name} cannot be read ({error.strerror}): check the file and its permissions") from None


def damaged(name: str) -> InputError:
    """The refusal of a file whose voxels are incomplete or changed."""
    return InputError(f"{name} is damaged or cut short, its voxels cannot be read: {REPLACE}")


def inflated_start(file: BinaryIO, size: int, name: str) -> bytes:
    """The first bytes that a gzip file holds.

    Args:
        file: at the start of the stream.
        size: how many bytes are wanted; fewer if it holds fewer.
        name: base name of the file.

    Raises:
        InputError: if it is damaged or cut short before them.
    """
    return bytes(inflated(file, size - 1, name, surplus=0))


def inflated(file: BinaryIO, expected: int, name: str, surplus: int = MAX_PADDING_BYTES) -> bytearray:
    """What a gzip or zlib stream holds, its checksum compared, and no more in memory than the header announces.

    Args:
        file: at the start of the stream, perhaps of several gzip members.
        expected: bytes that the header announces.
        name: base name of the file.
        surplus: how many bytes more there may be. The first one beyond them ends it: what is returned is then longer,
            and the caller says so.

    Raises:
        InputError: if it is damaged or cut short.
    """
    limit = min(max(expected + surplus, 0), sys.maxsize - 1)
    found, stream = bytearray(), zlib.decompressobj(_ANY_WRAPPER)
    chunk = file.read(_CHUNK_BYTES)
    try:
        while chunk:
            found += stream.decompress(chunk, limit + 1 - len(found))
            if len(found) > limit:
                return found
            chunk = stream.unused_data or file.read(_CHUNK_BYTES)
            if stream.eof and chunk:
                chunk += file.read(1) if len(chunk) < len(GZIP_MAGIC) else b""
                if not chunk.startswith(GZIP_MAGIC):
                    break  # what follows is no part of it
                stream = zlib.decompressobj(_ANY_WRAPPER)
    except zlib.error as error:
        raise damaged(name) from error
    if not stream.eof:
        raise damaged(name)
    return found


def check_size(available: int, shape: tuple[int, ...], voxel_type: np.dtype[Any], name: str) -> None:
    """Refuse a file that holds fewer or more voxels than its header says.

    Args:
        available: bytes from the first voxel to the end.
        shape: of the array in the file.
        voxel_type: of its voxels.
        name: base name of the file.

    Raises:
        InputError: if voxels are missing, or more than `MAX_PADDING_BYTES` follow them.
    """
    surplus = available - math.prod(shape) * voxel_type.itemsize
    if surplus < 0:
        raise damaged(name)
    if surplus > MAX_PADDING_BYTES:
        raise InputError(f"{name} holds more voxels than its header says ({format_shape(shape)}): {REPLACE}")


def check_voxel_type(voxel_type: np.dtype[Any], name: str) -> None:
    """Refuse colours and complex numbers.

    Raises:
        InputError: if the voxels are not real numbers.
    """
    if voxel_type.names is not None:
        raise colored(name)
    if voxel_type.kind not in "iuf":
        raise InputError(f"{name} has voxels of type {voxel_type}, not real numbers: export the scan's magnitude")


def colored(name: str) -> InputError:
    """The refusal of a volume of colours."""
    return InputError(f"{name} has RGB colour voxels, not intensities: export the scan in grey values")


def check_shape(shape: tuple[int, ...], name: str) -> None:
    """Refuse what is no image, or has more axes than a scan with channels.

    Raises:
        InputError: if there are fewer than two axes, an axis has no voxel, or several axes follow the three of space.
    """
    if len(shape) < 2 or min(shape) < 1:
        raise InputError(f"{name} has shape {format_shape(shape) or '()'}, so it holds no image: {REPLACE}")
    if sum(side > 1 for side in shape[SPATIAL_AXES:]) > 1:
        raise InputError(
            f"{name} has shape {format_shape(shape)}, but only one axis may follow the three of space: split it"
        )


def check_values(voxels: npt.NDArray[Any], name: str) -> None:
    """Refuse voxels that float32 cannot hold.

    Raises:
        InputError: if any is NaN, infinite, beyond float32 or a whole number beyond `MAX_EXACT`.
    """
    if voxels.dtype.kind != "f":
        check_whole_numbers(voxels, name)
        return
    limit = float(np.finfo(np.float32).max)
    # NaN passes through min and max and fails every comparison: two passes find all that is wrong.
    if voxels.min() >= -limit and voxels.max() <= limit:
        return
    bad = int(voxels.size - np.count_nonzero(np.abs(voxels) <= limit))
    raise InputError(f"{name} has {bad} voxels that are NaN, infinite or beyond float32: replace them by numbers")


def check_whole_numbers(voxels: npt.NDArray[Any], name: str) -> None:
    """Refuse voxels of an integer type that float32 would round: two labels would become one.

    Raises:
        InputError: if any is beyond `MAX_EXACT`.
    """
    if voxels.dtype.itemsize < 4 or not voxels.size:
        return
    farthest = max(int(voxels.max()), int(voxels.min()), key=abs)
    if abs(farthest) > MAX_EXACT:
        raise InputError(
            f"{name} holds the whole number {farthest}, which float32 rounds (exact up to {MAX_EXACT}): "
            "renumber its labels or rescale its intensities"
        )


def check_channel(shape: tuple[int, ...], affine: Affine, name: str, *first: Any) -> None:
    """Refuse a file that is no channel of the scan whose first channel is another.

    Args:
        shape: of the file, axes beyond space included.
        affine: of the file, 4x4, voxel index to mm.
        name: its base name.
        first: shape, affine and base name of the first channel.

    Raises:
        InputError: if the file has channels of its own or another grid.
    """
    first_shape, first_affine, first_name = first
    if math.prod(shape[SPATIAL_AXES:]) > 1:
        raise InputError(
            f"{name} has shape {format_shape(shape)}, but where each channel is a file, each is 3D: split it"
        )
    difference = grid_difference(shape[:SPATIAL_AXES], affine, first_shape[:SPATIAL_AXES], first_affine)
    if difference:
        raise InputError(f"{name} is not on the grid of {first_name} ({difference}): resample it onto that")


def drop_singleton_axes(voxels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Drop axes of length one after the three of space: what remains is at most one axis, the channels."""
    axes = tuple(axis for axis in range(SPATIAL_AXES, voxels.ndim) if voxels.shape[axis] == 1)
    voxels = voxels.squeeze(axis=axes)
    # MONAI copies what is not in C order; what is must not stay a read-only view of the file's bytes.
    return voxels.copy() if voxels.flags.c_contiguous and not voxels.flags.writeable else voxels
