"""Data set layouts, image readers and writers."""

from unet_bundle.io.layouts import case_name, find_cases, find_images, read_dataset_json
from unet_bundle.io.loading import LoadImaged
from unet_bundle.io.readers import NiftiReader
from unet_bundle.io.saving import NiftiWriter, SaveImaged, output_name
from unet_bundle.io.splits import select_cases, split_cases, subject_of

__all__ = [
    "LoadImaged",
    "NiftiReader",
    "NiftiWriter",
    "SaveImaged",
    "case_name",
    "find_cases",
    "find_images",
    "output_name",
    "read_dataset_json",
    "select_cases",
    "split_cases",
    "subject_of",
]
