"""The header of one DICOM file from its bytes, with bounds to what is read of a file that only seems to have one."""

import hashlib
import io
import logging
import re
import warnings
import zlib
from functools import lru_cache
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, NamedTuple, cast

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.marks import MARKS
from unet_bundle.io.dicom.sources import MAGIC, PREAMBLE

if TYPE_CHECKING:
    from pydicom import Dataset

# pydicom warns of damaged values with the values, which may be a patient's; what is used of them is checked here.
logging.getLogger("pydicom").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", category=UserWarning, module=r"pydicom\.")

HEADER_BYTES = 2**15
"""How much of a file is read for its header at first: most headers are shorter."""

MAX_HEADER_BYTES = 2**27
"""Most bytes read for a header, beside what is skipped: it holds the functional groups of 20,000 frames and more."""

MAX_HEADER_READS = 2**21
"""Most pieces a header is read in, two for each element: more is no header, and would take minutes."""

MAX_ELEMENTS = 2**14
"""Most elements of a header, those in sequences not counted: the longest have some 2,000."""

MAX_ZEROS = 2**16
"""Most zeros in a row in what is read for a header: a download that was made room for has no other bytes."""

MAX_INFLATED_BYTES = 2**30
"""Largest data set taken from a deflated file: deflate can swell a thousandfold."""

DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2"
NATIVE = (IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG)
"""Transfer syntaxes whose pixels stand in the file as they are."""

KEYWORDS = (
    *("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID"),
    *("Modality", "SeriesNumber", "SeriesDescription", "PixelPresentation"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "SpacingBetweenSlices"),
    *MARKS,
    *("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit"),
    *("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"),
)
"""All that is read of a header: nothing that names a patient."""

PATIENT_ID = 0x00100020
"""Tag of PatientID: of it a hash is kept, to tell whether slices are of one patient."""

IDENTITY = ("SOPClassUID", "Modality", "SeriesInstanceUID")
"""What tells whether an object is a slice, and of which series."""

_SOP_CLASS_UID = 0x00080016
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_ELEMENT_START, _SEARCHED_BYTES = 8, 2**13
_UID = re.compile(r"[0-9.]{5,64}")


class Parsed(NamedTuple):
    """What the bytes of a header say.

    Attributes:
        dataset: elements of `KEYWORDS`.
        transfer_syntax: UID.
        pixel_offset: where the pixel data's element starts in the file (in the inflated data set of a deflated one);
            None if none was found.
        patient: hash of the PatientID, empty where there is none.
    """

    dataset: "Dataset"
    transfer_syntax: str
    pixel_offset: int | None
    patient: bytes = b""


def parse(file: BinaryIO) -> Parsed | None:
    """Read a header, from the start of the file to its pixels.

    Args:
        file: a DICOM file, or its beginning.

    Returns:
        None where the bytes cannot be parsed, or are more than a header's.
    """
    try:
        return _parsed(file)
    except Exception:  # noqa: BLE001 - pydicom raises many kinds for damaged bytes; all mean the same
        return None


def states_class(start: bytes) -> bool:
    """Whether a file without preamble states its SOP class among its first elements, as DICOM does and no other file.

    Args:
        start: its first bytes.
    """
    from pydicom.filereader import read_partial

    try:
        dataset = read_partial(
            io.BytesIO(start),
            stop_when=lambda tag, _vr, _length: int(tag) > _SOP_CLASS_UID,
            force=True,
            specific_tags=[_SOP_CLASS_UID],
        )
        return _UID.fullmatch(str(dataset.get("SOPClassUID", ""))) is not None
    except Exception:  # noqa: BLE001 - as in parse
        return False


def element_tag(start: bytes, transfer_syntax: str) -> int:
    """The tag in the first four bytes of an element."""
    order: Literal["big", "little"] = "big" if transfer_syntax == EXPLICIT_BIG else "little"
    return int.from_bytes(start[:2], order) << 16 | int.from_bytes(start[2:4], order)


def inflated(contents: bytes, most: int = MAX_INFLATED_BYTES) -> bytes:
    """A deflated file (PS3.5 A.5) as one in explicit little endian, with little meta information.

    Args:
        contents: of the file.
        most: bytes of the data set that are taken; the rest is left.

    Raises:
        zlib.error: if the stream is damaged.
    """
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    body = engine.decompress(contents[_end_of_meta(contents) :], min(most, MAX_INFLATED_BYTES))
    syntax = EXPLICIT_LITTLE.encode() + b"\0" * (len(EXPLICIT_LITTLE) % 2)
    element = b"\x02\0\x10\0UI" + len(syntax).to_bytes(2, "little") + syntax
    length = b"\x02\0\0\0UL\x04\0" + len(element).to_bytes(4, "little")
    return bytes(PREAMBLE) + MAGIC + length + element + body


class _Bounded:
    """A file of which a header may be read, but no gigabytes of something else.

    Attributes:
        cut: whether the file ends within an element.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell = file.seek, file.tell
        self.cut = False
        self._read = file.read
        self._bytes, self._reads, self._zeros = MAX_HEADER_BYTES, MAX_HEADER_READS, 0
        self._elements = MAX_ELEMENTS

    def read(self, size: int = -1) -> bytes:
        self._bytes -= size
        self._reads -= 1
        if size < 0 or self._bytes < 0 or self._reads < 0 or self._zeros > MAX_ZEROS:
            raise InputError("not a DICOM header")
        chunk = self._read(size)
        self._zeros = 0 if any(chunk) else self._zeros + len(chunk)
        # At the end of the file pydicom asks for the eight bytes of another element, or for a piece to search in.
        self.cut = self.cut or (len(chunk) < size < _SEARCHED_BYTES and size != _ELEMENT_START)
        return chunk

    def at_pixels(self, tag: int, _vr: str | None, _length: int) -> bool:
        """Whether the element at which pydicom has come is that of the pixels."""
        self._elements -= 1
        if self._elements < 0:
            raise InputError("not a DICOM header")
        return tag in _PIXEL_TAGS


def _parsed(file: BinaryIO) -> Parsed:
    from pydicom.filereader import read_partial

    start = file.read(HEADER_BYTES)
    force = start[PREAMBLE : PREAMBLE + 4] != MAGIC
    deflated = not force and DEFLATED.encode() in start[: _end_of_meta(start)]
    if deflated:
        file = io.BytesIO(inflated(start + file.read(MAX_HEADER_BYTES), MAX_HEADER_BYTES))
    file.seek(0)
    bounded = _Bounded(file)
    dataset = read_partial(cast("BinaryIO", bounded), bounded.at_pixels, force=force, specific_tags=_tags())
    dataset.buffer = None  # else it would keep the bytes of every file
    if force and not dataset.get("SOPClassUID"):
        raise InputError("not a DICOM file")
    patient = _hashed_patient(dataset)
    for each in (dataset.file_meta, dataset):
        for tag in each.keys():  # noqa: SIM118 - iteration gives elements
            _check_zeros(each.get_item(tag).value)
            _ = each[tag].value  # conversion is lazy: faults show here, not later
    syntax = str(dataset.file_meta.get("TransferSyntaxUID") or "") or _syntax_of(dataset)
    offset = file.tell()
    if element_tag(file.read(4), syntax) in _PIXEL_TAGS:
        return Parsed(dataset, DEFLATED if deflated else syntax, offset, patient)
    cut = bounded.cut or offset > file.seek(0, io.SEEK_END)
    if cut and not all(dataset.get(keyword) for keyword in IDENTITY):
        raise InputError("cut short")
    return Parsed(dataset, DEFLATED if deflated else syntax, None, patient)


@lru_cache(maxsize=1)
def _tags() -> list[Any]:
    from pydicom.tag import Tag

    return [Tag(PATIENT_ID), *(Tag(keyword) for keyword in KEYWORDS)]


def _hashed_patient(dataset: "Dataset") -> bytes:
    """A hash in the place of the PatientID, which is taken out: nothing that is kept names a patient.

    Raises:
        InputError: if the file ends within it.
    """
    if PATIENT_ID not in dataset:
        return b""
    element: Any = dataset.get_item(PATIENT_ID)
    stated = element.value
    if isinstance(stated, bytes) and 0 < len(stated) < getattr(element, "length", 0):  # and what stands behind is lost
        raise InputError("cut short")
    del dataset[PATIENT_ID]
    stripped = stated.strip(b" \0") if isinstance(stated, bytes) else str(stated or "").strip().encode()
    return hashlib.blake2b(stripped, digest_size=16).digest() if stripped else b""


def _check_zeros(value: Any) -> None:
    """Refuse a sequence that is not yet parsed and holds a run of zeros: each eight would become an item of it."""
    if isinstance(value, bytes) and len(value) > MAX_ZEROS and bytes(MAX_ZEROS) in value:
        raise InputError("not a DICOM header")


def _end_of_meta(contents: bytes) -> int:
    """Where the meta information ends: its first element holds the length of the rest (PS3.10 7.1)."""
    start = PREAMBLE + len(MAGIC)
    return start + 12 + int.from_bytes(contents[start + 8 : start + 12], "little")


def _syntax_of(dataset: "Dataset") -> str:
    implicit, little = dataset.original_encoding
    return IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE if little else EXPLICIT_BIG
