"""MONAI's image reader for DICOM series."""

import difflib
import inspect
import logging
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from monai.data import ImageReader
from monai.utils.enums import MetaKeys, SpaceKeys

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.geometry import check_affine, grid_difference, lps_to_ras
from unet_bundle.io.dicom.grouping import Volume, find_volumes
from unet_bundle.io.dicom.headers import read_headers
from unet_bundle.io.dicom.kinds import MODALITIES
from unet_bundle.io.dicom.pixels import padding_value, read_voxels
from unet_bundle.io.dicom.record import record_of
from unet_bundle.io.dicom.resampling import check_size, resample
from unet_bundle.io.dicom.sources import FilePath, find_sources, is_dicom_path
from unet_bundle.io.dicom.stack import Stack, check_stack, stack_of

logger = logging.getLogger(__name__)

MAX_LISTED = 12
"""Most volumes that a message lists to choose from."""


@dataclass(frozen=True, eq=False)
class CheckedSeries:
    """A volume whose geometry is checked and whose voxels are not yet decoded."""

    volume: Volume
    stack: Stack


class DicomSeriesReader(ImageReader):
    """Read a DICOM series whose geometry is sure, and refuse every other with one sentence.

    Takes a folder (nested, mixed, with other files about), a DICOMDIR, a zip archive, a file, or several files of one
    series; several folders or archives are stacked as channels. Planes are sorted by their positions, never by name or
    instance number. The voxels are int16, int32 or float32 after rescaling: Hounsfield units of a CT; of a PET what its
    Units say, be it counts, never SUV.

    Messages name a series by modality, series number and the end of its UID, and a file by its place in the order of
    paths: never by descriptions, file or folder names, since those may name a patient.

    Args:
        series_uid: SeriesInstanceUID to read, or its ending if that of no other series is the same; digits may
            come as a number.
        series_description: SeriesDescription to read, exactly, in any case of letters.
        volume: number of the volume to read, from 1, in the list that the refusal of several gives.
        modality: ``"CT"``, ``"MR"`` or ``"PT"``: the one that the model was trained on; others are refused.
        on_tilt: ``"refuse"`` a tilted gantry, or ``"resample"`` it right.
        on_gaps: ``"refuse"`` unequal slice distances, or ``"resample"`` them.

    Raises:
        ConfigError: if an argument is none of these.
        InputError: when reading, with one sentence that says what is wrong and what to do.

    Example:
        >>> reader = DicomSeriesReader(modality="CT", on_tilt="resample")
        >>> array, meta = reader.get_data(reader.read("series/"))  # doctest: +SKIP
    """

    def __init__(
        self,
        series_uid: str | int | None = None,
        series_description: str | None = None,
        volume: int | None = None,
        modality: str | None = None,
        on_tilt: Literal["refuse", "resample"] = "refuse",
        on_gaps: Literal["refuse", "resample"] = "refuse",
    ) -> None:
        for name, value in (("on_tilt", on_tilt), ("on_gaps", on_gaps)):
            if value not in ("refuse", "resample"):
                raise ConfigError(f"{name} is {value!r}: it must be 'refuse' or 'resample'")
        ending = str(series_uid) if type(series_uid) is int else series_uid  # as a command line may read it
        for name, text in (("series_uid", ending), ("series_description", series_description)):
            if text is not None and not isinstance(text, str):  # of 1.10 and 1.1 the same number is made
                raise ConfigError(f"{name} is {text!r}: it must be text, in quotes within quotes on a command line")
        if modality is not None and modality not in MODALITIES:
            raise ConfigError(f"modality is {modality!r}: DICOM is read for {', '.join(MODALITIES)}")
        if volume is not None and (isinstance(volume, bool) or not isinstance(volume, int) or volume < 1):
            raise ConfigError(f"volume is {volume!r}: it must be a whole number from 1")
        self.series_uid = None if ending is None else str(ending).strip().removeprefix("...")  # as messages show it
        self.series_description, self.volume = series_description, volume
        self.modality, self.on_tilt, self.on_gaps = modality, on_tilt, on_gaps

    @classmethod
    def with_options(cls, options: Mapping[str, Any]) -> "DicomSeriesReader":
        """The reader that a config's ``dicom`` describes.

        Raises:
            ConfigError: if one of the options is unknown, or its value none of those it may have.
        """
        known = inspect.signature(cls).parameters
        for name in options:
            if name not in known:
                close = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
                raise ConfigError(f"unknown DICOM option {name!r}: {hint}")
        return cls(**options)

    def verify_suffix(self, filename: Sequence[PathLike[Any] | str] | PathLike[Any] | str) -> bool:
        """Whether these paths are DICOM, by what they hold."""
        paths = [filename] if isinstance(filename, (str, PathLike)) else list(filename)
        return bool(paths) and all(is_dicom_path(path) for path in paths)

    def read(
        self, data: Sequence[PathLike[Any] | str] | PathLike[Any] | str, **_kwargs: Any
    ) -> CheckedSeries | list[CheckedSeries]:
        """Read all headers, choose the volume and check its geometry.

        Returns:
            One series, or a list of them for several folders or archives; `get_data` decodes the voxels.
        """
        paths = [data] if isinstance(data, (str, PathLike)) else list(data)
        containers = [path for path in paths if Path(path).is_dir() or Path(path).suffix.lower() == ".zip"]
        if len(paths) > 1 and len(containers) == len(paths):
            return [self._checked([path]) for path in paths]
        return self._checked(paths)

    def get_data(self, img: CheckedSeries | Sequence[CheckedSeries]) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        """Decode the voxels.

        Args:
            img: what `read` returned.

        Returns:
            Array [columns, rows, slices], with channels in front if there were several series, and metadata: affine
            (RAS), shape, modality, the UIDs that outputs need, and ``dicom_source``, see
            `unet_bundle.io.dicom.record.SourceSeries`.
        """
        if isinstance(img, CheckedSeries):
            return self._volume(img)
        arrays, metas = zip(*(self._volume(each) for each in img), strict=True)
        for each, array, meta in zip(img, arrays, metas, strict=True):
            difference = grid_difference(arrays[0].shape, metas[0][MetaKeys.AFFINE], array.shape, meta[MetaKeys.AFFINE])
            if difference:
                raise InputError(
                    f"{each.volume.name} is not on the grid of {img[0].volume.name} ({difference}): "
                    "resample it onto that"
                )
        return np.stack(arrays), {**metas[0], MetaKeys.ORIGINAL_CHANNEL_DIM: 0}

    def check(self, volumes: Sequence[Volume], among: Sequence[Volume] | None = None) -> CheckedSeries:
        """Choose the volume that is asked for and check its geometry; no voxels are read.

        Args:
            volumes: of one or several series.
            among: all volumes of the input, if these are not: what the ending of a UID has to be unique in.

        Raises:
            InputError: why it would not be read.
        """
        uids = self._uids_asked_for(volumes if among is None else among)
        volume = self._chosen(volumes, uids)
        if volume.problem is not None:
            raise volume.problem
        stack = stack_of(volume.frames, volume.name)
        check_stack(
            stack, volume.name, resample_tilt=self.on_tilt == "resample", resample_gaps=self.on_gaps == "resample"
        )
        check_affine(stack.affine(), volume.name)
        if stack.is_tilted or not stack.is_regular:
            check_size(stack, volume.name)
        return CheckedSeries(volume, stack)

    def asks_for(self, volumes: Sequence[Volume], among: Sequence[Volume]) -> bool:
        """Whether `series_uid` and `series_description` ask for one of these volumes; see `check`.

        Raises:
            InputError: if ``series_uid`` is the ending of several series.
        """
        uids = self._uids_asked_for(among)
        return any(volume.series_uid in uids and self._is_described(volume) for volume in volumes)

    def _checked(self, paths: Sequence[FilePath]) -> CheckedSeries:
        volumes, left_out = find_volumes(read_headers(find_sources(paths)))
        if not volumes:
            reason, count = left_out.most_common(1)[0]
            others = f" ({count} of {left_out.total()} objects)" if left_out.total() > 1 else ""
            raise InputError(f"the DICOM input is {reason}{others}: give a series of slices")
        for reason, count in left_out.items():
            logger.info("left out %d DICOM object%s: %s", count, "s" if count > 1 else "", reason)
        checked = self.check(volumes)
        volume = checked.volume
        if len(checked.stack.frames) == 1:
            logger.warning("%s is a single slice, taken for the whole series, as thick as its header says", volume.name)
        if not volume.headers[0].text("FrameOfReferenceUID"):
            logger.warning("%s has no frame of reference: no DICOM result can refer to it", volume.name)
        return checked

    def _uids_asked_for(self, volumes: Sequence[Volume]) -> AbstractSet[str]:
        uids = {volume.series_uid for volume in volumes}
        if self.series_uid is None:
            return uids
        if self.series_uid in uids:
            return {self.series_uid}
        ended = {uid for uid in uids if uid.endswith(self.series_uid)}
        if len(ended) > 1:
            fitting = [volume for volume in volumes if volume.series_uid in ended]
            raise InputError(
                f"series_uid is the ending of {len(ended)} series: {_listed(fitting)}: give the whole SeriesInstanceUID"
            )
        return ended

    def _chosen(self, volumes: Sequence[Volume], uids: AbstractSet[str]) -> Volume:
        fitting = [volume for volume in volumes if volume.series_uid in uids and self._is_described(volume)]
        if not fitting:
            raise InputError(
                f"the DICOM input holds no volume that was asked for, only {_listed(volumes)}: ask for one"
            )
        of_modality = [volume for volume in fitting if self.modality in (None, volume.modality)]
        if not of_modality:
            found = " and ".join(sorted({volume.modality for volume in fitting}))
            raise InputError(
                f"{fitting[0].name} is {found}, the model needs {self.modality}: give a series of that modality"
            )
        if self.volume is not None:
            if self.volume > len(of_modality):
                raise InputError(
                    f"volume is {self.volume}, but the DICOM input holds {_listed(of_modality)}: ask for one"
                )
            return of_modality[self.volume - 1]
        if len(of_modality) > 1:
            raise InputError(
                f"the DICOM input holds {len(of_modality)} volumes, choose by dicom::series_uid or dicom::volume: "
                f"{_listed(of_modality)}"
            )
        return of_modality[0]

    def _is_described(self, volume: Volume) -> bool:
        description = volume.headers[0].text("SeriesDescription")
        return self.series_description is None or description.lower() == self.series_description.strip().lower()

    def _volume(self, series: CheckedSeries) -> tuple[npt.NDArray[Any], dict[str, Any]]:
        stack, volume = series.stack, series.volume
        voxels = read_voxels(stack.frames, volume.name)
        affine = stack.affine()
        resampled = stack.is_tilted or not stack.is_regular
        if resampled:
            padding = padding_value(stack.frames[0])
            voxels, affine = resample(stack, voxels, float(voxels.min()) if padding is None else padding)
        array = voxels.transpose(2, 1, 0)
        ras = lps_to_ras(affine)
        first = stack.frames[0].header
        return array, {
            MetaKeys.AFFINE: ras,
            MetaKeys.ORIGINAL_AFFINE: ras.copy(),
            MetaKeys.SPATIAL_SHAPE: np.asarray(array.shape),
            MetaKeys.SPACE: SpaceKeys.RAS,
            MetaKeys.ORIGINAL_CHANNEL_DIM: float("nan"),
            "modality": volume.modality,
            "series_uid": volume.series_uid,
            "frame_of_reference_uid": first.text("FrameOfReferenceUID"),
            "dicom_source": record_of(stack, resampled=resampled).to_json(),
        }


def _listed(volumes: Sequence[Volume]) -> str:
    entries = [f"{number}) {volume.describe()}" for number, volume in enumerate(volumes[:MAX_LISTED], 1)]
    more = [f"and {len(volumes) - MAX_LISTED} more"] if len(volumes) > MAX_LISTED else []
    return "; ".join(entries + more)
