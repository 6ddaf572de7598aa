"""Finding the scans to segment: those of a folder, of a data set's test part, or of a DICOM study."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.sources import holds_dicom, is_dicom_path
from unet_bundle.io.dicom.study import Study, read_study
from unet_bundle.io.layouts.description import read_dataset_json
from unet_bundle.io.layouts.finding import channels_of, images_of, is_nnunet, listed_path
from unet_bundle.io.layouts.mixed import with_images_beside
from unet_bundle.io.layouts.names import (
    PICTURE_SUFFIXES,
    VOLUME_SUFFIXES,
    FilePath,
    existing_folder,
    images_in,
    is_scan,
    relative_name,
    scans_in,
)
from unet_bundle.io.layouts.survey import REFUSE, Case, group_channels, sorted_by_name

logger = logging.getLogger(__name__)

_PICTURES = (*PICTURE_SUFFIXES, ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
_HEADERS, _DATA = (".hdr", ".nhdr", ".mhd"), (".img", ".raw", ".zraw", ".gz", ".bz2")
"""Endings of the two parts of a volume: the header's, which is looked for, and the voxels'."""


@dataclass(frozen=True)
class Scans:
    """What a folder holds.

    Attributes:
        cases: to segment.
        left_out: how much else of what kind lies there, in a line without a name; empty if nothing does.
        refused: why scans are not among the cases, by case name.
    """

    cases: list[Case]
    left_out: str = ""
    refused: dict[str, str] = field(default_factory=dict)


def find_study(
    dataset_dir: FilePath | None, channels: int | None = None, dicom: Mapping[str, Any] | None = None
) -> Study | None:
    """The DICOM study that a path leads to, or None if `find_images` finds other scans there.

    Args:
        dataset_dir: a folder, a zip archive, a DICOMDIR or a DICOM file. Of a folder that also holds other images see
            `unet_bundle.io.layouts.mixed`; one with a ``dataset.json`` is no study.
        channels: channels of a scan.
        dicom: arguments of `unet_bundle.io.DicomSeriesReader`.

    Raises:
        ConfigError: see `unet_bundle.io.dicom.study.read_study`.
        InputError: see there; or if the folder holds several other scans as well.
    """
    path = Path(dataset_dir) if dataset_dir else None
    if path is None or not path.exists() or is_scan(path):
        return None
    others: list[Path] = []
    if path.is_dir():
        others = images_in(path)
        if (path / "dataset.json").is_file() or not holds_dicom(path, beside_scans=bool(others)):
            return None
    options = dicom or {}
    study = read_study(path, options, channels) if is_dicom_path(path) else None
    if study is None or not others:
        return study
    is_chosen = any(options.get(choice) is not None for choice in ("series_uid", "series_description"))
    return with_images_beside(study, others, is_chosen=is_chosen)


def find_images(
    dataset_dir: FilePath | None,
    channels: int | None = None,
    dicom: Mapping[str, Any] | None = None,
    missing_channels: str = REFUSE,
) -> list[Case]:
    """The scans to segment: one file, the test scans of a data set, every scan of a plain folder, or of a DICOM study.

    Args:
        dataset_dir: a scan; a data set in the Decathlon's or nnU-Net's layout that has test scans; a folder that
            holds scans directly; or a DICOM study (see `find_study`), whose fitting series are taken and the others
            logged with the reason. Hidden files are left out, among them the ``._*`` copies that macOS makes.
        channels: channels of a scan. If that is more than one, files of a plain folder that are all named
            ``<case>_0000``, ``<case>_0001``, ... are taken for channels; None: each file is a scan.
        dicom: arguments of `unet_bundle.io.DicomSeriesReader`; with ``modality`` only such series fit.
        missing_channels: what becomes of scans that lack the file of a channel, see
            `unet_bundle.io.layouts.survey.group_channels`.

    Returns:
        ``{"image": path}`` for each scan, sorted by case name; a list of paths where each channel is a file. For a
        DICOM series ``{"image": paths of its files, "series": SeriesInstanceUID}``.

    Raises:
        InputError: if the path is not given or missing, no scan is found, a listed file is not there,
            a channel is missing, two scans would give results of one name, or no series of a study fits.
    """
    study = find_study(dataset_dir, channels, dicom)
    if study is not None:
        for reason in study.reasons():
            logger.warning("%s", reason)
        return study.cases()
    if dataset_dir is not None and is_scan(Path(dataset_dir)):
        return [{"image": str(dataset_dir)}]
    found = find_scans(existing_folder(dataset_dir), channels, missing_channels)
    for reason in found.refused.values():
        raise InputError(reason)
    if found.left_out:
        logger.warning("left out: %s", found.left_out)
    return found.cases


def find_scans(folder: Path, channels: int | None = None, missing_channels: str = REFUSE) -> Scans:
    """The scans of a folder: the test scans of a data set, or every scan that lies in it directly.

    Args:
        folder: that is no DICOM study.
        channels: see `find_images`.
        missing_channels: see `find_images`.

    Raises:
        InputError: if no scan is found, or a listed file is not there.
    """
    refused: dict[str, str] = {}
    if (folder / "dataset.json").is_file():
        contents = read_dataset_json(folder)
        if is_nnunet(folder, contents) and scans_in(folder / "imagesTs"):
            channels, folder = channels_of(folder, contents), folder / "imagesTs"
            cases = group_channels(scans_in(folder), channels, missing_channels, refused)
            return Scans(sorted_by_name(cases, refused), _left_out(folder, scans_in(folder)), refused)
        listed = contents.get("test", [])
        if not isinstance(listed, list):
            raise InputError(f"dataset.json of {folder.name}: 'test' must be a list of image files")
        if listed:
            cases = [_listed_scan(folder, entry) for entry in listed]
            return Scans(sorted_by_name(cases, refused), refused=refused)
    scans = scans_in(folder)
    left_out = _left_out(folder, scans)
    if not scans:
        raise InputError(
            f"the folder {folder.name} holds no volume ({', '.join(VOLUME_SUFFIXES)}) and no picture "
            f"({', '.join(PICTURE_SUFFIXES)}){f' but {left_out}' if left_out else ''}: give the folder of the scans"
        )
    cases = [{"image": str(path)} for path in scans]
    if channels is not None and channels > 1:
        cases = group_channels(scans, channels, missing_channels, refused)
    return Scans(sorted_by_name(cases, refused), left_out, refused)


def _left_out(folder: Path, scans: Sequence[Path]) -> str:
    """How much of what kind lies in a folder beside the scans; hidden files do not count."""
    taken = {*scans, folder / "dataset.json"}
    parts = _DATA if any(path.name.lower().endswith(_HEADERS) for path in scans) else ()
    others = [path for path in folder.iterdir() if path not in taken and not path.name.startswith(".")]
    kinds = Counter(_kind(path) for path in others if not path.name.lower().endswith(parts))
    return ", ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in sorted(kinds.items()))


def _kind(path: Path) -> str:
    if path.is_dir():
        return "subfolder"
    if not path.exists():
        return "broken link"
    return "picture" if path.name.lower().endswith(_PICTURES) else "other file"


def _listed_scan(folder: Path, entry: object) -> Case:
    if isinstance(entry, dict) and "image" not in entry:
        raise InputError(f"dataset.json of {folder.name}: each 'test' entry needs an 'image', got {entry!r}")
    paths = [listed_path(folder, name) for name in images_of(entry)]
    for path in paths:
        if not path.is_file():
            raise InputError(f"{relative_name(path, folder)} is listed in dataset.json but missing: add or unlist it")
    return {"image": str(paths[0]) if len(paths) == 1 else [str(path) for path in paths]}
