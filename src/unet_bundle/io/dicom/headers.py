"""Headers of DICOM files, read in parallel and without their pixels."""

import io
import logging
import os
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io.dicom.sources import PREAMBLE, Source, may_be_dicom, says_dicom

if TYPE_CHECKING:
    from pydicom import Dataset

# pydicom warns of damaged values with the values, which may be a patient's; what is used of them is checked here.
logging.getLogger("pydicom").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")

WORKERS = min(8, os.cpu_count() or 1)
"""Threads that read and decode files at a time."""

HEADER_BYTES = 2**15
"""How much of a file is read for its header at first; where the pixels begin later, the whole file is read."""

MAX_INFLATED_BYTES = 2**30
"""Largest data set inside a deflated file: deflate can swell a thousandfold."""

MAX_SIDE = 8192
"""Largest Rows and Columns: no CT, MR or PET slice and no mosaic is larger, a damaged header is."""

DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG)
"""Transfer syntaxes whose pixels stand in the file as they are."""

KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("Modality", "SeriesNumber", "SeriesDescription", "ImageType", "PixelPresentation", "Units"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *("EchoNumbers", "EchoTime", "TemporalPositionIdentifier", "TemporalPositionIndex", "AcquisitionNumber"),
    *("TriggerTime", "DiffusionBValue", "InversionTime", "AcquisitionTime", "FrameReferenceTime"),
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue"),
    *("RescaleSlope", "RescaleIntercept", "RescaleType", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
"""All that is read of a header: nothing that names a patient."""

MEDIA_STORAGE_DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class UID of a DICOMDIR: it lists files, which are found without it."""

_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_REPLACE = "get a fresh copy of it"


@dataclass(frozen=True, eq=False)
class Header:
    """What a file says of its image.

    Attributes:
        source: the file.
        number: place of the file among those given, from 1, in the order of their paths: how messages name it.
        count: how many files were given.
        dataset: elements of `KEYWORDS`.
        transfer_syntax: UID.
        pixel_offset: where the pixel data's element starts in the file (in the inflated data set of a deflated one);
            None if there are no pixels.
    """

    source: Source
    number: int
    count: int
    dataset: "Dataset"
    transfer_syntax: str
    pixel_offset: int | None

    @property
    def name(self) -> str:
        """The file for messages, without its name, which may be a patient's."""
        return file_label(self.number, self.count)

    def text(self, keyword: str) -> str:
        """An element as text, empty where it is missing."""
        value = self.dataset.get(keyword)
        return "" if value is None else str(value).strip()

    def numbers(self, keyword: str, count: int, dataset: "Dataset | None" = None) -> tuple[float, ...] | None:
        """An element as `count` finite numbers, or None where it is missing or empty.

        Args:
            keyword: of the element.
            count: how many numbers it must have.
            dataset: item of a sequence to look in, instead of the header itself.

        Raises:
            InputError: if it has another count of numbers, or values that are none.
        """
        value: Any = (self.dataset if dataset is None else dataset).get(keyword)
        if value is None or value == "" or (count > 1 and not len(np.atleast_1d(value))):
            return None
        try:
            values = tuple(float(each) for each in np.atleast_1d(value))
        except (TypeError, ValueError):
            values = ()
        if len(values) != count or not all(np.isfinite(values)):
            raise InputError(f"{self.name} has an unusable {keyword}: {_REPLACE}")
        return values

    def number_of(self, keyword: str, dataset: "Dataset | None" = None) -> float | None:
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
    try:
        import pydicom
    except ImportError:
        raise ConfigError("reading DICOM needs pydicom: pip install 'unet-bundle[dicom]'") from None
    if int(pydicom.__version__.split(".")[0]) < 3:
        raise ConfigError(f"reading DICOM needs pydicom 3, found {pydicom.__version__}: pip install 'pydicom>=3'")
    total = len(sources)
    with pydicom.config.disable_value_validation(), ThreadPoolExecutor(WORKERS) as pool:
        headers = list(pool.map(lambda pair: _read_header(pair[1], pair[0], total), enumerate(sources, 1)))
    found = [header for header in headers if header is not None]
    if not found:
        raise InputError("no DICOM file was found in what was given: check the path")
    return found


def _read_header(source: Source, number: int, count: int) -> Header | None:
    name = file_label(number, count)
    try:
        start = source.read(HEADER_BYTES)
        claimed = says_dicom(source, start)
        if not claimed and not may_be_dicom(start):
            return None
        parsed = _parse(start)
        incomplete = parsed is None or (parsed[2] is None and len(start) == HEADER_BYTES)
        if incomplete and (says_dicom(source, start, by_name=False) or may_be_dicom(start)):
            parsed = _parse(source.read())
    except OSError as error:
        raise InputError(f"{name} cannot be read ({error.strerror}): check its permissions") from None
    except (zipfile.BadZipFile, zlib.error):
        parsed = None
    if parsed is not None and parsed[0].file_meta.get("MediaStorageSOPClassUID") == MEDIA_STORAGE_DIRECTORY:
        return None
    known = parsed is not None and any(
        parsed[0].get(keyword) for keyword in ("SOPClassUID", "SeriesInstanceUID", "Rows")
    )
    if parsed is None or not known:
        if not claimed:
            return None
        raise InputError(f"{name} is damaged or cut short, its header cannot be read: {_REPLACE}")
    dataset, syntax, offset = parsed
    return Header(source, number, count, dataset, syntax, offset)


def _parse(contents: bytes) -> "tuple[Dataset, str, int | None] | None":
    """Data set without pixels, transfer syntax and place of the pixels; None where the bytes cannot be parsed."""
    try:
        return _parsed(contents)
    except Exception:  # noqa: BLE001 - pydicom raises many kinds for damaged bytes; all mean the same
        return None


def _parsed(contents: bytes) -> "tuple[Dataset, str, int | None]":
    import pydicom

    force = contents[PREAMBLE : PREAMBLE + 4] != b"DICM"
    deflated = not force and DEFLATED.encode() in contents[: _end_of_meta(contents)]
    file = io.BytesIO(inflated(contents) if deflated else contents)
    dataset = pydicom.dcmread(file, stop_before_pixels=True, force=force, specific_tags=list(KEYWORDS))
    if force and not dataset.get("SOPClassUID"):
        raise InputError("not a DICOM file")
    for element in (*dataset.file_meta, *dataset):
        _ = element.value  # conversion is lazy: faults show here, not later
    syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "") or _syntax_of(dataset)
    offset = file.tell()
    tag = element_tag(file.read(4), syntax)
    return dataset, DEFLATED if deflated else syntax, offset if tag in _PIXEL_TAGS else None


def element_tag(start: bytes, transfer_syntax: str) -> int:
    """The tag in the first four bytes of an element."""
    order: Literal["big", "little"] = "big" if transfer_syntax == EXPLICIT_BIG else "little"
    return int.from_bytes(start[:2], order) << 16 | int.from_bytes(start[2:4], order)


def inflated(contents: bytes) -> bytes:
    """A deflated file (PS3.5 A.5) as one in explicit little endian, with little meta information.

    Raises:
        zlib.error: if the stream is damaged or too large.
    """
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    body = engine.decompress(contents[_end_of_meta(contents) :], MAX_INFLATED_BYTES)
    if engine.unconsumed_tail:
        raise zlib.error("too large")
    syntax = EXPLICIT_LITTLE.encode() + b"\0" * (len(EXPLICIT_LITTLE) % 2)
    element = b"\x02\0\x10\0UI" + len(syntax).to_bytes(2, "little") + syntax
    length = b"\x02\0\0\0UL\x04\0" + len(element).to_bytes(4, "little")
    return bytes(PREAMBLE) + b"DICM" + length + element + body


def _end_of_meta(contents: bytes) -> int:
    """Where the meta information ends: its first element holds the length of the rest (PS3.10 7.1)."""
    start = PREAMBLE + len(b"DICM")
    return start + 12 + int.from_bytes(contents[start + 8 : start + 12], "little")


def _syntax_of(dataset: "Dataset") -> str:
    implicit, little = dataset.original_encoding
    return IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE if little else EXPLICIT_BIG
