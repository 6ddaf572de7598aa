"""Names of files and what they say: which is a scan, which case it belongs to, which channel it holds."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from unet_bundle.errors import InputError

VOLUME_SUFFIXES = (
    *(".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".nhdr"),
    *(".mha", ".mhd", ".mgz", ".mgh", ".hdr"),
)
"""File name endings of the volumes that are looked for, longest first; of a file in two parts the header's."""

PICTURE_SUFFIXES = (".png", ".tiff", ".tif")
"""File name endings of two-dimensional images; beside volumes they are taken for previews and left out."""

SUFFIXES = (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES)

_SECOND_PART = ".img"  # of a .hdr, which is the one that is looked for

_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>[0-9]{4})")
_SEPARATORS = "_-. "

FilePath = str | os.PathLike[str]


def case_name(image: FilePath | Sequence[FilePath]) -> str:
    """The name of the case a file belongs to: its base name without the ending of its format.

    Args:
        image: path of a scan; or the paths of its channels, whose names have the case's name in common.

    Example:
        >>> case_name("imagesTr/liver_004.nii.gz")
        'liver_004'
        >>> case_name(["liver_004_0000.nii.gz", "liver_004_0001.nii.gz"])
        'liver_004'
    """
    if isinstance(image, (str, os.PathLike)):
        return _stem(image)
    stems = [_stem(path) for path in image]
    parts = [split_channel(stem) for stem in stems]
    if parts[0] is not None and len({part and part[0] for part in parts}) == 1:
        return parts[0][0]
    if len(stems) == 1:
        return stems[0]
    common = os.path.commonprefix(stems)  # noqa: RUF071 - of names, so letter by letter
    if any(stem[len(common) :][:1] not in ("", *_SEPARATORS) for stem in stems):  # cut within a word: "t1", "t2"
        common = common[: max(common.rfind(separator) for separator in _SEPARATORS) + 1]
    return common.rstrip(_SEPARATORS) or stems[0]


def split_channel(stem: str) -> tuple[str, int] | None:
    """Case and channel of a file named as nnU-Net does, ``liver_004_0001``; None for any other name."""
    match = _CHANNEL.fullmatch(stem)
    return None if match is None else (match["case"], int(match["channel"]))


def is_scan(path: Path) -> bool:
    """Whether a path is a file with an ending of `SUFFIXES` and not hidden, as the ``._*`` copies of macOS are."""
    return path.name.lower().endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()


def scans_in(folder: Path) -> list[Path]:
    """The volumes that lie directly in a folder, or its pictures if it has no volume; sorted by name."""
    scans = images_in(folder)
    volumes = [path for path in scans if path.name.lower().endswith(VOLUME_SUFFIXES)]
    return volumes or scans


def images_in(folder: Path) -> list[Path]:
    """The volumes and pictures that lie directly in a folder, sorted by name."""
    return sorted(path for path in folder.iterdir() if is_scan(path)) if folder.is_dir() else []


def relative_name(path: FilePath, folder: Path) -> str:
    """A file's path as people may see it: from the data set's folder on."""
    path = Path(path)
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.name


def existing_folder(dataset_dir: FilePath | None) -> Path:
    """The data set's folder.

    Raises:
        InputError: if it is not given, missing or not a folder.
    """
    if dataset_dir is None or not str(dataset_dir).strip():
        raise InputError("dataset_dir is not set: pass --dataset_dir FOLDER")
    folder = Path(dataset_dir)
    if not folder.is_dir():
        problem = "is not a folder" if folder.exists() else "does not exist"
        raise InputError(f"dataset_dir {str(dataset_dir)!r} {problem}: pass --dataset_dir FOLDER")
    return folder.resolve() if not folder.name else folder


def _stem(path: FilePath) -> str:
    name = Path(path).name
    for suffix in (*SUFFIXES, _SECOND_PART):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name
