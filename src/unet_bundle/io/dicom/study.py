"""A study of many series: which of them a model can segment, and why not the others."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.grouping import Volume, find_volumes
from unet_bundle.io.dicom.headers import read_headers
from unet_bundle.io.dicom.reader import DicomSeriesReader
from unet_bundle.io.dicom.record import SourceSeries, record_of
from unet_bundle.io.dicom.sources import FilePath, find_sources

DICOM_SERIES = "dicom_series"
"""What results of a DICOM series without a UID are named after."""


@dataclass(frozen=True)
class StudySeries:
    """One series of a study.

    Attributes:
        uid: SeriesInstanceUID, empty if the files have none.
        name: what messages call it; nothing that names a patient.
        files: paths of its files, which may name a patient; those in an archive as ``study.zip/folder/file``.
        refusal: why it would not be read, None if it would be.
        fits_modality: whether a volume in it is of the modality that is asked for.
        source: the planes that would be read, None if it would not be.
    """

    uid: str
    name: str
    files: tuple[str, ...]
    refusal: str | None
    fits_modality: bool = True
    source: SourceSeries | None = None


@dataclass(frozen=True)
class Study:
    """What a folder, an archive or a file with DICOM holds.

    Attributes:
        series: in the order of their numbers.
        left_out: how many objects are no scans or not asked for, for each reason.
        beside: what is said of images that are no DICOM and lie in the same folder; empty if there are none.
    """

    series: tuple[StudySeries, ...]
    left_out: Counter[str]
    beside: str = ""

    @property
    def fitting(self) -> list[StudySeries]:
        """Those that would be read."""
        return [series for series in self.series if series.refusal is None]

    def cases(self) -> list[dict[str, Any]]:
        """``{"image": paths, "series": SeriesInstanceUID}`` of each that fits: results are named after the UID.

        Raises:
            InputError: if none fits.
        """
        if not self.fitting:
            raise InputError(self._nothing_fits())
        return [{"image": list(series.files), "series": series.uid or DICOM_SERIES} for series in self.fitting]

    def _nothing_fits(self) -> str:
        reasons = self.reasons()
        if len(self.series) == 1 and self.series[0].refusal is not None:
            return self.series[0].refusal
        return f"the DICOM input holds no series to segment: {reasons[0] if reasons else 'it holds no scan'}" + (
            f" (and {len(reasons) - 1} more such reasons)" if len(reasons) > 1 else ""
        )

    @property
    def refused(self) -> list[str]:
        """Why series of the modality that is asked for are not read, a line for each."""
        return [series.refusal for series in self.series if series.refusal is not None and series.fits_modality]

    def reasons(self, *, with_refused: bool = True) -> list[str]:
        """Why the others are not read, a line for each; the objects that are no scans are counted.

        Args:
            with_refused: whether also those that `refused` tells.
        """
        refusals = [
            series.refusal
            for series in self.series
            if series.refusal is not None and (with_refused or not series.fits_modality)
        ]
        counted = [
            f"{count} object{'s are' if count > 1 else ' is'} {reason}" for reason, count in self.left_out.items()
        ]
        return refusals + counted + ([self.beside] if self.beside else [])


def read_study(path: FilePath, options: Mapping[str, Any], channels: int | None = None) -> Study:
    """Sort a study into series and check the geometry of each; no voxels are read.

    Args:
        path: a folder, an archive, a DICOMDIR or a file.
        options: arguments of `unet_bundle.io.DicomSeriesReader`; ``series_uid`` and ``series_description`` choose.
        channels: how many the model needs: a series has one.

    Raises:
        ConfigError: if the reader does not know an option.
        InputError: if nothing there is DICOM, or a file's header is damaged.
    """
    reader = DicomSeriesReader.with_options(options)
    volumes, left_out = find_volumes(read_headers(find_sources(path)))
    by_uid: dict[str, list[Volume]] = {}
    for volume in volumes:
        by_uid.setdefault(volume.series_uid, []).append(volume)
    groups = list(by_uid.values())
    asked = [group for group in groups if _is_asked_for(group, volumes, reader)] or groups
    others = sum(len(volume.headers) for group in groups if group not in asked for volume in group)
    if others:
        left_out["of series that were not asked for"] = others
    return Study(tuple(_series(group, volumes, reader, channels) for group in asked), left_out)


def _is_asked_for(volumes: list[Volume], among: list[Volume], reader: DicomSeriesReader) -> bool:
    try:
        return reader.asks_for(volumes, among)
    except InputError:  # it is said of every series
        return True


def _series(volumes: list[Volume], among: list[Volume], reader: DicomSeriesReader, channels: int | None) -> StudySeries:
    first, refusal, source = volumes[0], None, None
    try:
        stack = reader.check(volumes, among).stack
        source = record_of(stack, resampled=stack.is_tilted or not stack.is_regular)
        if channels is not None and channels > 1:
            refusal = f"{first.name} has 1 channel, the model needs {channels}: give each case's channels as files"
    except InputError as error:
        refusal = str(error)
    headers = dict.fromkeys(header for volume in volumes for header in volume.headers)
    fits = any(reader.modality in (None, volume.modality) for volume in volumes)
    files = tuple(header.source.address for header in headers)
    return StudySeries(first.series_uid, first.name, files, refusal, fits, source)
