"""Data set layouts, image readers and writers."""

from unet_bundle.io.dicom import DicomSeriesReader
from unet_bundle.io.layouts import (
    Survey,
    case_name,
    find_cases,
    find_images,
    find_scans,
    find_study,
    read_dataset_json,
    read_description,
    survey_cases,
)
from unet_bundle.io.loading import LoadImaged
from unet_bundle.io.output_format import FORMATS, output_name
from unet_bundle.io.plane_writer import PlaneWriter
from unet_bundle.io.planes import RGB, Channels, PlaneReader, fit_colors, is_picture, wanted_channels
from unet_bundle.io.readers import NiftiReader
from unet_bundle.io.saving import NiftiWriter, SaveImaged
from unet_bundle.io.segments import ARTIFICIAL_INTELLIGENCE
from unet_bundle.io.splits import select_cases, split_cases, subject_of
from unet_bundle.io.volume_files import VolumeReader

__all__ = [
    "ARTIFICIAL_INTELLIGENCE",
    "FORMATS",
    "RGB",
    "Channels",
    "DicomSeriesReader",
    "LoadImaged",
    "NiftiReader",
    "NiftiWriter",
    "PlaneReader",
    "PlaneWriter",
    "SaveImaged",
    "Survey",
    "VolumeReader",
    "case_name",
    "find_cases",
    "find_images",
    "find_scans",
    "find_study",
    "fit_colors",
    "is_picture",
    "output_name",
    "read_dataset_json",
    "read_description",
    "select_cases",
    "split_cases",
    "subject_of",
    "survey_cases",
    "wanted_channels",
]
