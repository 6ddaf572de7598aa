"""What the app's operators do, without the SDK: find the series of a study that a bundle can segment, segment one."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import find_study, output_name
from unet_bundle.predictor import CONFIG, Predictor

logger = logging.getLogger(__name__)

OUTPUT_FORMAT = "dicom-seg"


@dataclass(frozen=True)
class Work:
    """What a study holds for a bundle.

    Attributes:
        items: ``{"image": files, "series": SeriesInstanceUID}`` of each series that is segmented.
        refused: why series of the bundle's modality are not, a line for each.
    """

    items: list[dict[str, Any]]
    refused: list[str]


def find_series(bundle: Path, study: Path) -> Work:
    """The series of a study that a bundle can segment; what is left out is logged.

    Args:
        bundle: its folder.
        study: a folder with DICOM, an archive or a DICOMDIR.

    Raises:
        ConfigError: not a bundle.
        InputError: no DICOM, or no series that fits.
    """
    try:
        config = json.loads((bundle / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{bundle / CONFIG} cannot be read: give the folder of a bundle as the model") from error
    found = find_study(study, config["dataset"]["data"].get("channels"), config.get("dicom"))
    if found is None:
        raise InputError("the input folder holds no DICOM study: give the folder of one")
    for reason in found.reasons(with_refused=False):
        logger.info("left out: %s", reason)
    return Work(found.cases(), found.refused)


def segment_series(predictor: Predictor, item: dict[str, Any], output: Path) -> Path:
    """Segment a series.

    Args:
        predictor: the bundle.
        item: one of `Work.items`.
        output: folder for the results.

    Returns:
        The DICOM SEG, named after the series' UID.

    Raises:
        InputError: the series is refused.
    """
    predictor.save(item["image"], output, output_format=OUTPUT_FORMAT)
    return output / output_name(item["series"], output_format=OUTPUT_FORMAT, dicom=True)


def segment_all(predictor: Predictor, work: Work, output: Path) -> list[Path]:
    """Segment all series; one that is refused does not keep the others from their result.

    Raises:
        InputError: when all is done, if a series of the bundle's modality was refused; it names the first reason.
    """
    output.mkdir(parents=True, exist_ok=True)
    made: list[Path] = []
    refused = list(work.refused)
    for item in work.items:
        try:
            made.append(segment_series(predictor, item, output))
            logger.info("segmented: series %s", item["series"])
        except InputError as error:  # noqa: PERF203  (seconds of network a turn)
            refused.append(str(error))
    for reason in refused:
        logger.warning("refused: %s", reason)
    if refused:
        raise InputError(f"{len(refused)} series refused, {len(made)} segmented: {refused[0]}")
    return made
