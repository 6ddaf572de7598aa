"""Folders that hold DICOM series and other images: what belongs to a study, and when nobody can tell."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from unet_bundle.errors import InputError
from unet_bundle.io.dicom.study import Study
from unet_bundle.io.layouts.names import SUFFIXES, VOLUME_SUFFIXES

MAX_VOLUMES_BESIDE = 1
"""Most volumes of other formats that are left out beside DICOM series, as a converted copy is: more may be scans."""


def too_many(images: Sequence[Path]) -> bool:
    """Whether the images directly in a folder with DICOM series may be what a person wants segmented."""
    return len(_volumes(images)) > MAX_VOLUMES_BESIDE


def with_images_beside(study: Study, images: Sequence[Path], *, is_chosen: bool) -> Study | None:
    """A study in whose folder other images lie: a snapshot, a converted copy, or a folder of scans.

    Args:
        study: with the series below the folder.
        images: volumes and pictures directly in it.
        is_chosen: whether options say which series is meant.

    Returns:
        The study with a line that says what is left out; None if it holds no series.

    Raises:
        InputError: if there are several volumes, so that either may be meant.
    """
    if not study.series:
        return None
    if too_many(images) and not is_chosen:
        raise InputError(
            f"the folder holds {len(study.series)} DICOM series and {len(_volumes(images))} other scans, either may be "
            "meant: give the folder of one kind, or choose by dicom::series_uid"
        )
    kinds = sorted({_suffix(path) for path in images})
    said = f"{len(images)} other image{'s' if len(images) > 1 else ''} ({', '.join(kinds)}) directly in the folder"
    return dataclasses.replace(study, beside=f"{said}: of a DICOM study its series are taken")


def _volumes(images: Sequence[Path]) -> list[Path]:
    return [path for path in images if path.name.lower().endswith(VOLUME_SUFFIXES)]


def _suffix(path: Path) -> str:
    return next(suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix))
