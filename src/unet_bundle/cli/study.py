"""What `predict` segments: the scans of a folder, or the series of a DICOM study that fit the bundle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unet_bundle.config_checks import SEPARATOR

if TYPE_CHECKING:
    from unet_bundle.io.dicom import SourceSeries

Item = dict[str, Any]

MISSING_CHANNELS = "missing_channels"
"""Key of what becomes of scans that lack a channel, in bundles of several."""


@dataclass(frozen=True)
class Work:
    """What is to be segmented.

    Attributes:
        items: for the config's data set.
        left_out: why series of a DICOM study are not among them, a line for each; of a folder one line of what else it
            holds.
        refused: likewise those that fit the bundle's modality; scans whose results would have one name, or that lack a
            channel.
        sources: the planes of each series among the items, by its UID.
    """

    items: list[Item]
    left_out: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    sources: dict[str, SourceSeries] = field(default_factory=dict)


def find_work(path: Path, config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Work:
    """Find the scans.

    Args:
        path: a scan, a folder of scans, or a DICOM study.
        config: inference.json.
        overrides: values that replace those of the config.

    Raises:
        ConfigError: if the DICOM reader does not know an option.
        InputError: if there is nothing to segment.
    """
    from unet_bundle.io import find_scans, find_study

    channels = config["dataset"]["data"].get("channels")
    study = find_study(path, channels, reading_options(config, overrides))
    if study is not None:
        alone = len(study.series) < 2  # then the refusal is the error itself
        items = study.cases() if study.fitting or alone else []
        sources = {item["series"]: each.source for item, each in zip(items, study.fitting, strict=True) if each.source}
        return Work(items, study.reasons(with_refused=False), study.refused, sources)
    if not path.is_dir():
        return Work([{"image": str(path)}])
    missing = str(overrides.get(MISSING_CHANNELS, config.get(MISSING_CHANNELS, "refuse")))
    found = find_scans(path, channels, missing)
    return Work(found.cases, [found.left_out] if found.left_out else [], list(found.refused.values()))


def reading_options(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """How DICOM is read: the config's ``dicom`` with its overrides.

    Args:
        config: inference.json; of a bundle of older make without ``dicom``.
        overrides: such as ``{"dicom::on_tilt": "resample"}``.
    """
    options = dict(overrides.get("dicom", config.get("dicom")) or {})
    prefix = f"dicom{SEPARATOR}"
    options.update({key.removeprefix(prefix): value for key, value in overrides.items() if key.startswith(prefix)})
    return options


def results_of(item: Mapping[str, Any], folder: Path, output_format: str) -> list[Path]:
    """The files that are there of what may be a scan's result.

    Args:
        item: of the config's data set.
        folder: of the results.
        output_format: one of `unet_bundle.io.FORMATS`.

    Raises:
        ConfigError: if the scan cannot have a result in that format.
    """
    # Of a series that no SEG can refer to "auto" writes NIfTI.
    formats = [output_format, *(["nifti"] if output_format == "auto" and "series" in item else [])]
    return [path for each in formats if (path := result_of(item, folder, each)).exists()]


def result_of(item: Mapping[str, Any], folder: Path, output_format: str) -> Path:
    """The file of a scan's result, named after the scan, or after the series, whose folder may bear a patient's name.

    Args:
        item: of the config's data set.
        folder: of the results.
        output_format: one of `unet_bundle.io.FORMATS`.

    Raises:
        ConfigError: if the scan cannot have a result in that format.
    """
    from unet_bundle.io import output_name

    dicom = "series" in item
    return folder / output_name(item["series" if dicom else "image"], output_format=output_format, dicom=dicom)
