"""Where DICOM bytes come from: files, folders, DICOMDIR, zip archives; found by content, never by name."""

import lzma
import os
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from os import PathLike
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO, cast

from unet_bundle.errors import InputError

PREAMBLE = 128
MAGIC = b"DICM"

MAX_MEMBER_BYTES = 2**30
"""Largest file taken out of a zip archive: more is no DICOM slice but an archive made to fill the memory."""

MAX_ARCHIVE_BYTES = 2**34
"""Most bytes that the files of a zip archive may have together, unpacked: a study of 30,000 slices fits."""

MAX_FILES = 100_000
"""Most files looked at below one folder: beyond that a whole archive was given, not a study."""

ZIP_SUFFIX = ".zip"
DICOMDIR = "DICOMDIR"
_OLD_STYLE_STARTS = (b"\x08\x00", b"\x02\x00", b"\x00\x08")
"""First bytes of files without preamble: group 0008 or 0002, or 0008 in big endian."""

_UID_ROOT = b"1.2.840.10008."
"""How every UID begins that the standard gives out: of a SOP class, a transfer syntax."""

_HEAD = 4096
"""First bytes of a file without preamble in which such a UID is looked for."""

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_FIRST_ELEMENT = b"\x02\0\0\0"
"""Tag of the first element after the preamble."""

FilePath = str | PathLike[str]


@dataclass(frozen=True, order=True)
class Source:
    """One file, plain or in a zip archive.

    Attributes:
        path: of the file or of the archive.
        member: name inside the archive; None for a plain file.
    """

    path: Path
    member: str | None = None

    @property
    def address(self) -> str:
        """What `find_sources` finds this file by again: its path, through the archive if it lies in one."""
        return str(self.path if self.member is None else self.path / self.member)

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The file, to read and to seek in; of an archive it is inflated as far as it is read.

        Raises:
            OSError: if it cannot be read.
            zipfile.BadZipFile: if the archive is damaged, packed in a way that is not read, or another one now; also
                while it is read.
        """
        if self.member is None:
            with self.path.open("rb") as file:
                yield file
            return
        state = self.path.stat()
        archive = _archive(self.path, state.st_mtime_ns, state.st_size, os.getpid())
        try:
            member = archive.open(self.member)
        except (NotImplementedError, RuntimeError, KeyError) as error:
            raise zipfile.BadZipFile("not to be unpacked") from error
        with member:
            try:
                yield cast("BinaryIO", member)
            except (zlib.error, lzma.LZMAError, EOFError) as error:
                raise zipfile.BadZipFile("damaged") from error
            except OSError as error:
                if error.errno is not None:
                    raise
                raise zipfile.BadZipFile("damaged") from error  # what bzip2 says of a damaged stream

    def read(self, limit: int = -1) -> bytes:
        """The first `limit` bytes, or all.

        Raises:
            OSError, zipfile.BadZipFile: see `open`.
        """
        with self.open() as file:
            return file.read(limit if limit >= 0 or self.member is None else MAX_MEMBER_BYTES)


@lru_cache(maxsize=1)
def _archive(path: Path, _changed: int, _size: int, _process: int) -> zipfile.ZipFile:
    """The open archive: its directory is long to read. Forked processes must not share one, nor one that changed."""
    return zipfile.ZipFile(path)


def says_dicom(source: Source, start: bytes, *, by_name: bool = True) -> bool:
    """Whether a file claims to be DICOM: if it cannot be parsed, it is damaged, and a slice may be lost with it.

    Args:
        source: the file, whose name may end in ``.dcm``.
        start: its first bytes, 136 at least.
        by_name: whether a name in ``.dcm`` is enough.
    """
    marks = start[PREAMBLE : PREAMBLE + 4], start[PREAMBLE + 4 : PREAMBLE + 8]
    named = (source.member or source.path.name).lower().endswith(".dcm")
    return MAGIC in marks[:1] or _FIRST_ELEMENT in marks or (by_name and named)


def may_be_dicom(start: bytes) -> bool:
    """Whether a file with these first bytes may be an old one, without preamble."""
    return start.startswith(_OLD_STYLE_STARTS)


def is_dicom_path(path: FilePath) -> bool:
    """Whether a path is the DICOM reader's: a folder, a zip archive, a DICOMDIR, ``.dcm``, or a file that says so."""
    path = Path(path)
    if path.name.lower().endswith((ZIP_SUFFIX, ".dcm")) or path.name == DICOMDIR or path.is_dir() or _archive_of(path):
        return True
    try:
        source = Source(path)
        start = source.read(PREAMBLE + 8)
    except OSError:
        return False
    return says_dicom(source, start) or may_be_dicom(start)


def holds_dicom(path: FilePath, *, beside_scans: bool = False) -> bool:
    """Whether a file, or any below a folder or in an archive, says that it is DICOM.

    Args:
        path: of the file, folder or archive.
        beside_scans: whether other scans lie in the folder, among whose files some may begin as old DICOM does: then
            the mark of DICOM or one of its UIDs has to stand in a file, and too many files are no reason to refuse.

    Raises:
        InputError: see `find_sources`.
    """
    try:
        sources = find_sources(path)
    except InputError:
        if not beside_scans:
            raise
        return False
    return any(_says_so(source, proven=beside_scans) for source in sources)


def _says_so(source: Source, *, proven: bool) -> bool:
    try:
        start = source.read(_HEAD)
    except (OSError, zipfile.BadZipFile):
        return False
    if proven:
        return start[PREAMBLE : PREAMBLE + len(MAGIC)] == MAGIC or (may_be_dicom(start) and _UID_ROOT in start)
    return says_dicom(source, start) or may_be_dicom(start)


def _archive_of(path: Path) -> Path | None:
    """The archive that a path leads through; None for an ordinary path."""
    if ZIP_SUFFIX not in str(path).lower():
        return None
    return next((each for each in path.parents if each.suffix.lower() == ZIP_SUFFIX and each.is_file()), None)


def find_sources(paths: FilePath | Sequence[FilePath]) -> list[Source]:
    """All files behind what was given, sorted by path; hidden files and links to folders are left out.

    Args:
        paths: a file, a folder (searched to the bottom), a DICOMDIR (its folder is), a zip archive, a file in one
            (``study.zip/folder/file``), or several.

    Raises:
        InputError: if one does not exist or cannot be opened, is a damaged or encrypted archive, or holds too much. No
            message names a file or folder, since it may bear a patient's name.
    """
    given = [paths] if isinstance(paths, (str, PathLike)) else list(paths)
    found: set[Source] = set()
    inside: dict[Path, set[Path]] = defaultdict(set)
    try:
        for each in map(Path, given):
            archive = _archive_of(each)
            if archive is None:
                found.update(_below(each))
            else:
                inside[archive].add(each)
        for archive, wanted in inside.items():
            found.update(_picked(archive, wanted))
    except OSError as error:
        raise InputError(f"the DICOM input cannot be read ({error.strerror}): check the path") from None
    except (zipfile.BadZipFile, NotImplementedError):
        raise InputError(
            "the zip archive with the DICOM input is damaged or cut short: get a fresh copy of it"
        ) from None
    return sorted(found, key=lambda source: (str(source.path), source.member or ""))


def _below(path: Path) -> list[Source]:
    if path.name == DICOMDIR and path.is_file():
        path = path.parent
    if path.is_dir():
        sources = []
        for folder, _, names in os.walk(path):
            sources += [Source(Path(folder, name)) for name in names if not name.startswith(".") and name != DICOMDIR]
            if len(sources) > MAX_FILES:
                raise InputError(f"the DICOM input holds more than {MAX_FILES} files: give the folder of one study")
        return [source for source in sources if source.path.is_file()]
    if not path.exists():
        raise InputError("the DICOM input does not exist: check the path")
    if zipfile.is_zipfile(path):
        return _members(path)
    if path.suffix.lower() == ZIP_SUFFIX:  # its directory stands at the end
        raise InputError("the zip archive with the DICOM input is damaged or cut short: get a fresh copy of it")
    return [Source(path)]


def _picked(archive: Path, wanted: set[Path]) -> list[Source]:
    sources = [source for source in _members(archive) if Path(source.address) in wanted]
    if len(sources) < len(wanted):
        raise InputError("the zip archive lacks a file of the DICOM input: check the path")
    return sources


def _leads_out(member: str) -> bool:
    """Whether a name in an archive stands for a file that is not below it."""
    return PurePosixPath(member).is_absolute() or PureWindowsPath(member).is_absolute() or ".." in Path(member).parts


def _members(path: Path) -> list[Source]:
    with zipfile.ZipFile(path) as archive:
        members = [member for member in archive.infolist() if not member.is_dir()]
        if len(members) > MAX_FILES or any(member.file_size > MAX_MEMBER_BYTES for member in members):
            raise InputError(
                f"the zip archive holds over {MAX_FILES} files or one above {MAX_MEMBER_BYTES >> 20} MiB: unpack it"
            )
        if sum(member.file_size for member in members) > MAX_ARCHIVE_BYTES:
            raise InputError(f"the zip archive holds over {MAX_ARCHIVE_BYTES >> 30} GiB, unpacked: unpack it first")
        if any(member.flag_bits & 1 for member in members):
            raise InputError("the zip archive with the DICOM input is encrypted: unpack it first")
        if any(member.compress_type not in _METHODS for member in members):
            raise InputError("the zip archive is packed by a method that is not read: unpack it first")
        names = [(member.filename, Path(member.filename).name) for member in members]
        if len(set(names)) < len(names) or any(_leads_out(full) for full, _ in names):
            raise InputError("the zip archive holds names twice, or that lead out of it: pack it again")
    return [Source(path, full) for full, name in names if name != DICOMDIR and not name.startswith(".")]
