"""Reading two-dimensional pictures, PNG and TIFF, sample for sample, and what counts as their channels."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
import tifffile
from monai.data import ImageReader, MetaTensor
from monai.utils.enums import MetaKeys, SpaceKeys
from PIL import Image, UnidentifiedImageError

from unet_bundle.errors import InputError
from unet_bundle.geometry import format_shape
from unet_bundle.io.checks import check_whole_numbers
from unet_bundle.io.layouts import PICTURE_SUFFIXES

# MONAI's Orientation has the two axes of a plane right, and warns that its affine names a third.
warnings.filterwarnings("ignore", message="axcodes .* length is smaller than number of input spatial dimensions D=2")

Samples = npt.NDArray[Any]
Channels = int | Literal["RGB"]
"""Channels that a model needs: a number, or ``"RGB"`` for the three of a colour picture."""

RGB = ("red", "green", "blue")
"""Modalities of the channels of a colour picture."""

_PNG_START, _PNG_HEADER = b"\x89PNG\r\n\x1a\n", 26
_PNG_COLORS = (2, 3, 4, 6)  # RGB, palette, grey with alpha, RGB with alpha
_ORIENTATION_TAG, _UPRIGHT = 274, 1
_ALPHA_OF = {2: 1, 4: 3}
_ALPHA_SAMPLES = (tifffile.EXTRASAMPLE.ASSOCALPHA, tifffile.EXTRASAMPLE.UNASSALPHA)
_PALETTE = "palette"  # in the metadata: whether a palette gives other greys or colours than the file's indices
_REPLACE = "get a fresh copy of it"


class _Plane(NamedTuple):
    path: Path
    samples: Samples  # [rows, columns], or [rows, columns, 3]
    palette: bool


def wanted_channels(modality: Sequence[str]) -> Channels:
    """What `LoadImaged` has to be told of the channels: ``"RGB"`` for red, green and blue, else their number."""
    return "RGB" if tuple(name.strip().lower() for name in modality) == RGB else len(modality)


def is_picture(path: object) -> bool:
    """Whether a path, or the only one of a list, has the ending of a two-dimensional picture."""
    if isinstance(path, (list, tuple)) and len(path) == 1:
        path = path[0]
    return isinstance(path, (str, PathLike)) and str(path).lower().endswith(PICTURE_SUFFIXES)


def fit_colors(image: MetaTensor, channels: Channels | None) -> MetaTensor:
    """A picture with the channels that are wanted, where that loses nothing; else as it is.

    A grey picture is given to a model of colour three times. A colour picture whose three channels are equal is grey.

    Args:
        image: shape [channels, x, y].
        channels: what is wanted; None: as the file has it.

    Raises:
        InputError: one channel is wanted of a picture with a palette, whose indices a label map may mean.
    """
    if channels == 1 and image.meta.get(_PALETTE):
        name = Path(image.meta["filename_or_obj"]).name
        raise InputError(f"{name} is a palette PNG: save the indices (of a scan its greys) as grey")
    if channels == "RGB" and image.shape[0] == 1:
        return cast("MetaTensor", image.repeat(3, 1, 1))
    if channels == 1 and image.shape[0] == 3 and bool((image[1:] == image[:1]).all()):
        return cast("MetaTensor", image[:1])
    return image


class PlaneReader(ImageReader):  # type: ignore[misc,unused-ignore]
    """Read PNG and TIFF pictures as the samples that the file holds, or refuse them.

    Arrays are [x, y] or [x, y, channel]: x to the right of the picture, y downwards from its upper edge. The affine is
    the identity: a pixel is 1 wide and high. What files say of resolution is left aside, since programs write a
    printer's or a screen's there. An alpha channel that is opaque everywhere is dropped, a palette becomes the
    colours that it stands for. Several files are stacked as channels, each of them grey.

    Raises:
        InputError: naming the file by its base name, if it is missing or damaged; is no PNG or TIFF; has several
            pages, transparent pixels or a stated rotation; or holds samples that cannot be read exactly (16-bit colour
            in a PNG, a TIFF's palette, white-is-zero or YCbCr, a codec that is not installed, NaN).
    """

    def verify_suffix(self, filename: Any) -> bool:
        """Whether all files are named ``.png``, ``.tif`` or ``.tiff``."""
        names = [filename] if isinstance(filename, (str, PathLike)) else list(filename)
        return bool(names) and all(is_picture(name) for name in names)

    def read(self, data: Sequence[PathLike[Any] | str] | PathLike[Any] | str, **_kwargs: Any) -> Any:
        """Decode one file or several.

        Returns:
            A list of planes; samples have the shape [rows, columns] or [rows, columns, 3].
        """
        paths = [Path(data)] if isinstance(data, (str, PathLike)) else [Path(path) for path in data]
        planes = [_read_plane(path) for path in paths]
        if len(planes) == 1:
            return planes
        return [_as_channel(plane, planes[0]) for plane in planes]

    def get_data(self, img: Any) -> tuple[Samples, dict[str, Any]]:
        """Samples as [x, y], or [x, y, channel] for colour and for several files, and their metadata."""
        planes = [plane.samples for plane in img]
        samples = planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)
        samples = np.ascontiguousarray(np.moveaxis(samples, 0, 1))
        meta: dict[str, Any] = {
            MetaKeys.AFFINE: np.eye(4),
            MetaKeys.ORIGINAL_AFFINE: np.eye(4),
            MetaKeys.SPATIAL_SHAPE: np.asarray(samples.shape[:2]),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan") if samples.ndim == 2 else -1,
            _PALETTE: any(plane.palette for plane in img),
        }
        return samples, meta


def _as_channel(plane: _Plane, first: _Plane) -> _Plane:
    samples, name = plane.samples, plane.path.name
    if samples.ndim == 3:
        if (samples[..., 1:] != samples[..., :1]).any():
            raise InputError(f"{name} is in colour, but where each channel is a file, each is grey: split it")
        samples = samples[..., 0]
    if samples.shape != first.samples.shape[:2]:
        shapes = format_shape(samples.shape[::-1]), format_shape(first.samples.shape[1::-1])
        raise InputError(f"{name} has {shapes[0]} pixels, {first.path.name} has {shapes[1]}: channels have one size")
    return plane._replace(samples=samples)


def _read_plane(path: Path) -> _Plane:
    try:
        if path.name.lower().endswith(".png"):
            samples, palette = _read_png(path)
            return _Plane(path, _drop_alpha(samples, path.name), palette)
        return _Plane(path, _read_tiff(path), palette=False)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path.name} does not exist: check the path") from None
    except IsADirectoryError:
        raise InputError(f"{path.name} is a folder: give a picture") from None
    except PermissionError as error:
        raise InputError(f"{path.name} cannot be read ({error.strerror}): check its permissions") from None
    except Image.DecompressionBombError:
        raise InputError(
            f"{path.name} has more than {2 * (Image.MAX_IMAGE_PIXELS or 0)} pixels: save it as TIFF"
        ) from None
    except Exception as error:  # decoders raise many kinds for damaged data, which all mean the same
        raise InputError(f"{path.name} is damaged or cut short, its pixels cannot be read: {_REPLACE}") from error


def _read_png(path: Path) -> tuple[Samples, bool]:
    """Samples, the last perhaps alpha, and whether a palette makes of the indices what they are not."""
    name = path.name
    with path.open("rb") as file:
        start = file.read(_PNG_HEADER)
    if not start.startswith(_PNG_START) or len(start) < _PNG_HEADER:
        raise InputError(f"{name} is not a PNG file, whatever its name says: {_REPLACE}")
    depth, color = struct.unpack_from("BB", start, 24)
    if depth == 16 and color in _PNG_COLORS:  # Pillow would drop the lower bytes without a word
        raise InputError(f"{name} has colour or alpha of 16 bits, which is read from TIFF only: save it as TIFF")
    try:
        with Image.open(path, formats=["PNG"]) as picture:
            if getattr(picture, "n_frames", 1) > 1:
                raise InputError(f"{name} is animated: save one picture a file")
            picture.load()
            _check_upright(picture.getexif().get(_ORIENTATION_TAG, _UPRIGHT), name)
            if picture.mode == "P" or picture.has_transparency_data:
                if picture.mode not in ("P", "L", "LA", "RGB", "RGBA"):
                    raise InputError(f"{name} states a transparent grey value: save it without transparency")
                # A transparent colour or palette entry is a chunk of its own: this makes an alpha channel of it.
                shown = np.asarray(picture.convert("RGBA"))
                indices = np.asarray(picture) if picture.mode == "P" else None
                return shown, indices is not None and bool((shown[..., :3] != indices[..., None]).any())
            samples = np.asarray(picture)
    except UnidentifiedImageError:
        raise InputError(f"{name} is not a PNG file or its header is damaged: {_REPLACE}") from None
    if samples.dtype == bool:
        return samples.astype(np.uint8), False
    # Pillow stretches grey of 2 and 4 bits to 0..255; a label map would have other values.
    return samples // (255 // (2**depth - 1)) if depth in (2, 4) and color == 0 else samples, False


def _read_tiff(path: Path) -> Samples:
    name = path.name
    try:
        with tifffile.TiffFile(path) as file:
            if len(file.pages) != 1:
                raise InputError(f"{name} has {len(file.pages)} pages: save one picture a file, or a volume as NIfTI")
            samples, axes = _tiff_samples(file.pages[0], name)
            extra = tuple(getattr(file.pages[0], "extrasamples", ()))
    except tifffile.TiffFileError:
        raise InputError(f"{name} is not a TIFF file or its header is damaged: {_REPLACE}") from None
    if axes == "SYX":
        samples = np.moveaxis(samples, 0, -1)
    elif axes not in ("YX", "YXS"):
        raise InputError(f"{name} has axes {axes}, not one plane of pixels: save one picture a file")
    if samples.dtype.kind == "b":
        samples = samples.astype(np.uint8)
    if samples.dtype.kind not in "iuf":
        raise InputError(f"{name} has samples of type {samples.dtype}, not real numbers: save it in grey or RGB")
    if samples.dtype.kind == "f" and not (np.abs(samples) <= np.finfo(np.float32).max).all():  # False for NaN, too
        raise InputError(f"{name} has pixels that are NaN, infinite or beyond float32: replace them by numbers")
    if samples.dtype.kind in "iu":
        check_whole_numbers(samples, name)
    has_alpha = len(extra) == 1 and extra[0] in _ALPHA_SAMPLES
    return _drop_alpha(samples, name, has_alpha)


def _tiff_samples(page: Any, name: str) -> tuple[Samples, str]:
    """Samples of a page and what their axes are."""
    _check_upright(page.tags.valueof(_ORIENTATION_TAG, _UPRIGHT), name)
    meaning = tifffile.PHOTOMETRIC(page.photometric)
    if meaning not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
        raise InputError(f"{name} holds {meaning.name} samples: save it in grey (black is zero) or RGB")
    try:
        return np.asarray(page.asarray()), str(page.axes)
    except ValueError as error:
        if "imagecodecs" not in str(error):
            raise
        codec = tifffile.COMPRESSION(page.compression).name
        raise InputError(
            f"{name} is compressed by {codec}: install the package imagecodecs, or save it with deflate"
        ) from None


def _check_upright(orientation: int, name: str) -> None:
    if orientation != _UPRIGHT:
        raise InputError(f"{name} says that it is to be shown turned or mirrored: save it upright")


def _drop_alpha(samples: Samples, name: str, has_alpha: bool = True) -> Samples:
    """Grey [rows, columns] or colour [rows, columns, 3]; `has_alpha`: whether a second or fourth sample is alpha."""
    if samples.ndim == 2:
        return samples
    count = samples.shape[-1]
    alpha = _ALPHA_OF.get(count) if has_alpha else None
    if alpha is not None:
        opaque = np.iinfo(samples.dtype).max if samples.dtype.kind in "iu" else 1.0
        if (samples[..., alpha] != opaque).any():
            raise InputError(f"{name} has pixels that are not opaque, so it is unclear what they show: save it opaque")
        samples = samples[..., :alpha]
    elif count not in (1, 3):
        raise InputError(f"{name} has {count} samples a pixel: save it in grey or RGB")
    return samples[..., 0] if samples.shape[-1] == 1 else samples
