"""MONAI's loading transform with our readers behind it and no others."""

import copy
import logging
import warnings
from collections.abc import Hashable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

import monai.transforms
import numpy as np
import torch
from monai.config import DtypeLike
from monai.data import ImageReader, MetaTensor

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io.dicom import DicomSeriesReader
from unet_bundle.io.dicom.sources import is_dicom_path
from unet_bundle.io.dicom.study import DICOM_SERIES
from unet_bundle.io.layouts import SUFFIXES, case_name
from unet_bundle.io.layouts.survey import MISSING
from unet_bundle.io.planes import RGB, Channels, PlaneReader, fit_colors, is_picture
from unet_bundle.io.readers import NiftiReader
from unet_bundle.io.volume_files import VolumeReader
from unet_bundle.stages import stage

# MONAI's LoadImage makes all of its readers, also where ours replace them: what they lack is of no interest.
logging.getLogger("monai.data.nvimgcodec_pydicom_plugin").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")

logger = logging.getLogger(__name__)

READERS: tuple[type[ImageReader], ...] = (NiftiReader, VolumeReader, PlaneReader, DicomSeriesReader)
"""One reader for each family of formats, asked in this order whether a file is theirs."""

READ_FORMATS = (
    "NIfTI (.nii, .nii.gz, .hdr with .img), NRRD (.nrrd, .nhdr), MetaImage (.mha, .mhd), MGH (.mgh, .mgz), PNG, "
    "TIFF (.tif, .tiff) or a DICOM series (folder, .zip, .dcm)"
)
"""What `READERS` read, for messages."""


class LoadImaged(monai.transforms.LoadImaged):
    """Read scans and label maps, channel first, or refuse them with one sentence.

    The class has the name of MONAI's and passes for it, since hosts look for it. MONAI's keeps its default readers
    behind the one it is given, so that a file which one reader refuses is read, wrongly perhaps, by another; here
    nothing stands behind.
    Keys of the dictionary other than `keys` pass through untouched, but for ``missing_channels`` of `find_images`:
    these channels are made of zeros, and the metadata name them.

    Args:
        keys: keys of the file paths to replace by images. A list of paths is stacked as channels.
        channels: channel count that the model needs, one for all keys or one for each (None: any); another is refused.
            ``"RGB"``: three, and a grey picture (PNG, TIFF) is given in each of them. With 1, a colour picture whose
            three channels are equal is taken for grey.
        dtype: type of the voxels, as MONAI's.
        ensure_channel_first: must be True; stands here because MONAI's configs name it.
        allow_missing_keys: whether a dictionary without one of the keys is accepted.
        dicom: arguments of `unet_bundle.io.DicomSeriesReader`, such as ``{"modality": "CT", "on_tilt": "resample"}``.

    Raises:
        ConfigError: if `ensure_channel_first` is false, or there is not one channel count for each key, or `dicom` has
            what the reader does not know.
        InputError: when called, if a file is refused: see `unet_bundle.io.readers`.

    Example:
        >>> load = LoadImaged(keys="image", channels=1)
        >>> load({"image": "liver_004.nii.gz"})["image"].shape  # doctest: +SKIP
        torch.Size([1, 512, 512, 120])
    """

    def __init__(
        self,
        keys: str | Sequence[str],
        channels: Channels | Sequence[Channels | None] | None = None,
        dtype: DtypeLike = np.float32,
        ensure_channel_first: bool = True,
        allow_missing_keys: bool = False,
        dicom: Mapping[str, Any] | None = None,
    ) -> None:
        if not ensure_channel_first:
            raise ConfigError("LoadImaged always puts channels first: leave ensure_channel_first out")
        super().__init__(keys, dtype=dtype, ensure_channel_first=True, allow_missing_keys=allow_missing_keys)
        # An image and its label often have the same base name: of a labelled case messages show the folder's, too.
        self._loader: _StrictLoadImage = _StrictLoadImage(
            dtype, with_folder=tuple(self.keys) != ("image",), dicom=dicom or {}
        )
        one_for_all = channels is None or isinstance(channels, (int, str))
        self.channels: list[Any] = [channels] * len(self.keys) if one_for_all else [*channels]  # type: ignore[misc]
        if len(self.channels) != len(self.keys):
            raise ConfigError(
                f"LoadImaged has {len(self.keys)} keys but {len(self.channels)} channel counts: give one a key"
            )
        for stated in self.channels:
            if isinstance(stated, str) and stated != "RGB":
                raise ConfigError(f"LoadImaged has channels {stated!r}: give a number, or 'RGB' for colour pictures")

    def __call__(self, data: Mapping[Hashable, Any], reader: ImageReader | None = None) -> dict[Hashable, Any]:
        """Replace each path by its image, a `MetaTensor` of shape [channels, *spatial]."""
        with stage("read"):
            loaded: dict[Hashable, Any] = super().__call__(data, reader)
        missing: Sequence[int] = loaded.pop(MISSING, [])
        for key, channels in self.key_iterator(loaded, self.channels):
            if missing and isinstance(data[key], (list, tuple)):
                loaded[key] = _with_empty_channels(loaded[key], missing)
                logger.warning(
                    "%s lacks channel %s: it counts as zero", case_name(data[key]), ", ".join(map(str, missing))
                )
            if is_picture(data[key]):  # not several of them: there each is a channel already
                try:
                    loaded[key] = fit_colors(loaded[key], channels)
                except InputError as error:
                    raise InputError(self._loader.with_shown_name(str(error), data[key])) from error
            found = loaded[key].shape[0]
            needed = len(RGB) if channels == "RGB" else channels
            if needed is not None and found != needed:
                raise InputError(
                    f"{self._loader.shown_name(data[key])} has {found} channel{'' if found == 1 else 's'}, "
                    f"the model needs {needed}: give a scan like those the model was trained on"
                )
        return loaded


def _with_empty_channels(image: MetaTensor, missing: Sequence[int]) -> MetaTensor:
    """The image with channels of zeros where some have no file; its metadata names them."""
    count = len(image) + len(missing)
    full = torch.zeros((count, *image.shape[1:]), dtype=image.dtype)
    full[[number for number in range(count) if number not in missing]] = image.as_tensor()
    return MetaTensor(full, meta={**image.meta, MISSING: list(missing)}, applied_operations=image.applied_operations)


class _StrictLoadImage(monai.transforms.LoadImage):
    """`LoadImage` that picks the reader by the file's name and lets the reader's refusal through."""

    def __init__(
        self, dtype: DtypeLike, with_folder: bool = False, dicom: Mapping[str, Any] = MappingProxyType({})
    ) -> None:
        super().__init__(dtype=dtype, ensure_channel_first=True)
        self.with_folder = with_folder
        series = DicomSeriesReader.with_options(dicom)
        self.readers = [series if reader is DicomSeriesReader else reader() for reader in READERS]

    def __call__(self, filename: Any, reader: ImageReader | None = None) -> Any:
        if reader is None:
            # A copy: readers keep the file name from `read` to `get_data`, and a caching data set loads in threads.
            reader = next(
                (copy.copy(candidate) for candidate in self.readers if candidate.verify_suffix(filename)), None
            )
        if reader is None:
            name = self.shown_name(filename)
            if not _all_exist(filename):
                raise InputError(f"{name} does not exist: check the path")
            raise InputError(f"{name} is in no format that is read: convert it to {READ_FORMATS}")
        try:
            loaded = super().__call__(filename, reader)
        except InputError as error:
            raise InputError(self.with_shown_name(str(error), filename)) from error
        meta = loaded.meta if self.image_only else loaded[1]  # MONAI Label asks for (image, metadata)
        if "series_uid" in meta:  # a DICOM folder may bear a patient's name: results bear the series' UID
            meta["filename_or_obj"] = meta["series_uid"] or DICOM_SERIES
        elif isinstance(filename, (list, tuple)):  # results are named after this: the case, not its first channel
            first = Path(filename[0])
            suffix = first.name[len(case_name(first)) :]
            meta["filename_or_obj"] = str(first.with_name(case_name(filename) + suffix))
        return loaded

    def shown_name(self, filename: Any) -> str:
        """What messages may show of a path, or of the first of several: its base name, perhaps with the folder's."""
        first = filename[0] if isinstance(filename, (list, tuple)) and filename else filename
        if not isinstance(first, (str, PathLike)):
            return repr(type(first).__name__)
        if is_dicom_path(first) and not str(first).lower().endswith(SUFFIXES):
            return "the DICOM input"  # its names may be a patient's
        return Path(*Path(first).parts[-2:]).as_posix() if self.with_folder else Path(first).name

    def with_shown_name(self, message: str, filename: Any) -> str:
        """The reader's message, which begins with the base name of the file it is about."""
        for path in filename if isinstance(filename, (list, tuple)) else [filename]:
            if isinstance(path, (str, PathLike)) and message.startswith(f"{Path(path).name} "):
                return self.shown_name(path) + message.removeprefix(Path(path).name)
        return message


def _all_exist(filename: Any) -> bool:
    paths = filename if isinstance(filename, (list, tuple)) else [filename]
    return all(Path(path).exists() for path in paths if isinstance(path, (str, PathLike)))
