"""Where the scans of a data set lie: found by looking, or stated by patterns in the task card.

A case is a dictionary of file paths, ``{"image": ..., "label": ...}``, as MONAI's transforms take it; where each
channel is a file of its own, ``"image"`` is a list of paths.
"""

from unet_bundle.io.layouts.description import read_dataset_json, read_description
from unet_bundle.io.layouts.finding import find_cases, no_cases, survey_cases
from unet_bundle.io.layouts.names import PICTURE_SUFFIXES, SUFFIXES, VOLUME_SUFFIXES, case_name
from unet_bundle.io.layouts.scans import find_images, find_scans, find_study
from unet_bundle.io.layouts.survey import REFUSE, Case, Problem, Survey

__all__ = [
    "PICTURE_SUFFIXES",
    "REFUSE",
    "SUFFIXES",
    "VOLUME_SUFFIXES",
    "Case",
    "Problem",
    "Survey",
    "case_name",
    "find_cases",
    "find_images",
    "find_scans",
    "find_study",
    "no_cases",
    "read_dataset_json",
    "read_description",
    "survey_cases",
]
