"""Data set layouts, image readers and writers."""

from unet_bundle.io.dicom import DicomSeriesReader
from unet_bundle.io.layouts import (
    Survey,
    case_name,
    find_cases,
    find_images,
    read_dataset_json,
    read_description,
    survey_cases,
)
from unet_bundle.io.loading import LoadImaged
from unet_bundle.io.plane_writer import PlaneWriter
from unet_bundle.io.planes import RGB, Channels, PlaneReader, fit_colors, is_picture, wanted_channels
from unet_bundle.io.readers import NiftiReader
from unet_bundle.io.saving import NiftiWriter, SaveImaged, output_name
from unet_bundle.io.splits import select_cases, split_cases, subject_of

__all__ = [
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
    "case_name",
    "find_cases",
    "find_images",
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
