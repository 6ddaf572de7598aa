"""Headers of DICOM files, read in parallel and without their pixels."""

import io
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io.dicom.parsing import HEADER_BYTES, parse, states_class
from unet_bundle.io.dicom.sources import Source, may_be_dicom, says_dicom

if TYPE_CHECKING:
    from pydicom import Dataset

WORKERS = min(8, os.cpu_count() or 1)
"""Threads that read and decode files at a time."""

MAX_SIDE = 8192
"""Largest Rows and Columns: no CT, MR or PET slice and no mosaic is larger, a damaged header is."""

MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class UID of a DICOMDIR: it lists files, which are found without it."""

_REPLACE = "get a fresh copy of it"


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says of its image.

    Attributes:
        source: the file.
        number: place of the file among those given, from 1, in the order of their paths: how messages name it.
        count: how many files were given.
        dataset: elements of `unet_bundle.io.dicom.parsing.KEYWORDS`.
        transfer_syntax: UID.
        pixel_offset: where the pixel data's element starts in the file (in the inflated data set of a deflated one);
            None if there are no pixels.
        patient: hash of the PatientID, empty where there is none.
    """

    source: Source
    number: int
    count: int
    dataset: "Dataset"
    transfer_syntax: str
    pixel_offset: int | None
    patient: bytes = b""

    @property
    def name(self) -> str:
        """The file for messages, without its name, which may be a patient's."""
        return file_label(self.number, self.count)

    @cached_property
    def values(self) -> dict[str, Any]:
        """Values of the data set by keyword: pydicom's own look-up takes a third of the time of reading a series."""
        return {element.keyword: element.value for element in self.dataset}

    def text(self, keyword: str) -> str:
        """An element as text, empty where it is missing."""
        value = self.values.get(keyword)
        return "" if value is None else str(value).strip()

    def numbers(
        self, keyword: str, count: int, dataset: "Mapping[str, Any] | Dataset | None" = None
    ) -> tuple[float, ...] | None:
        """An element as `count` finite numbers, or None where it is missing or empty.

        Args:
            keyword: of the element.
            count: how many numbers it must have.
            dataset: item of a sequence to look in, instead of the header itself.

        Raises:
            InputError: if it has another count of numbers, or values that are none.
        """
        values: tuple[float, ...] = ()
        try:
            value: Any = (self.values if dataset is None else dataset).get(keyword)
            if isinstance(value, (int, float)):
                values = (float(value),)
            elif value is None or value == "" or (count > 1 and not len(np.atleast_1d(value))):
                return None
            else:
                values = tuple(float(each) for each in np.atleast_1d(value))
        except Exception:  # noqa: BLE001 - in an item of a sequence pydicom converts here: many kinds, all damage
            values = ()
        if len(values) != count or not all(map(math.isfinite, values)):
            raise InputError(f"{self.name} has an unusable {keyword}: {_REPLACE}")
        return values

    def number_of(self, keyword: str, dataset: "Mapping[str, Any] | Dataset | None" = None) -> float | None:
        """An element as one finite number; see `numbers`."""
        values = self.numbers(keyword, 1, dataset)
        return None if values is None else values[0]

    def whole(self, keyword: str, low: int, high: int, default: int | None = None) -> int:
        """An element as a whole number in a range.

        Raises:
            InputError: if it is missing without a default, or out of range.
        """
        value = self.number_of(keyword)
        value = default if value is None else value
        if value is None or value != int(value) or not low <= value <= high:
            raise InputError(f"{self.name} has no {keyword} from {low} to {high}: {_REPLACE}")
        return int(value)


def file_label(number: int, count: int) -> str:
    """How messages call a DICOM file: its name could be a patient's, its place cannot."""
    return "the DICOM file" if count == 1 else f"DICOM file {number} of {count} (in order of path)"


def read_headers(sources: Sequence[Source]) -> list[Header]:
    """Read the headers of all DICOM files among `sources`.

    Files that are no DICOM are passed over.

    Args:
        sources: files, in the order in which messages count them.

    Raises:
        ConfigError: if pydicom is not installed, or too old.
        InputError: if a DICOM file cannot be parsed, or none is there.
    """
    headers, refusals = survey_headers(sources)
    if not refusals:
        return headers
    more = f" (and {len(refusals) - 1} more such file{'s' if len(refusals) > 2 else ''})" if len(refusals) > 1 else ""
    where = "; unet-bundle inspect --show-paths says where it is" if len(sources) > 1 else ""
    raise InputError(f"{refusals[0]}{more}{where}")


def survey_headers(sources: Sequence[Source]) -> tuple[list[Header], list[InputError]]:
    """Read the headers that can be read, and say which cannot.

    Args:
        sources: files, in the order in which messages count them.

    Returns:
        The headers, and the refusals of damaged files: a slice of any series may be lost with each.

    Raises:
        ConfigError: if pydicom is not installed, or too old.
        InputError: if no DICOM file is there.
    """
    try:
        import pydicom
    except ImportError:
        raise ConfigError("reading DICOM needs pydicom: pip install 'unet-bundle[dicom]'") from None
    if int(pydicom.__version__.split(".")[0]) < 3:
        raise ConfigError(f"reading DICOM needs pydicom 3, found {pydicom.__version__}: pip install 'pydicom>=3'")
    total = len(sources)
    with pydicom.config.disable_value_validation(), ThreadPoolExecutor(WORKERS) as pool:
        read = list(pool.map(lambda pair: _read_header(pair[1], pair[0], total), enumerate(sources, 1)))
    headers = [each for each in read if isinstance(each, Header)]
    refusals = [each for each in read if isinstance(each, InputError)]
    if not headers and not refusals:
        raise InputError("no DICOM file was found in what was given: check the path")
    return headers, refusals


def _read_header(source: Source, number: int, count: int) -> Header | InputError | None:
    """The header of a file; None if it is no DICOM; why it cannot be read."""
    name = file_label(number, count)
    try:
        with source.open() as file:
            start = file.read(HEADER_BYTES)
            old = may_be_dicom(start) and states_class(start)
            claimed = old or says_dicom(source, start)
            if not claimed:
                return None
            parsed = parse(io.BytesIO(start))
            incomplete = parsed is None or parsed.pixel_offset is None
            if incomplete and len(start) == HEADER_BYTES and (old or says_dicom(source, start, by_name=False)):
                file.seek(0)
                parsed = parse(file)
    except OSError as error:
        return InputError(f"{name} cannot be read ({error.strerror}): check its permissions")
    except zipfile.BadZipFile:
        claimed, parsed = True, None
    if parsed is not None and parsed.dataset.file_meta.get("MediaStorageSOPClassUID") == MEDIA_STORAGE_DIRECTORY:
        return None
    if parsed is None or not any(parsed.dataset.get(each) for each in ("SOPClassUID", "SeriesInstanceUID", "Rows")):
        return InputError(f"{name} is damaged or cut short, its header cannot be read: {_REPLACE}")
    return Header(source, number, count, *parsed)
