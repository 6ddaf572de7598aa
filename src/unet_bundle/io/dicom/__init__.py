"""Reading DICOM series: geometry that is checked, never guessed."""

from unet_bundle.io.dicom.reader import DicomSeriesReader
from unet_bundle.io.dicom.record import SourceSeries, SourceSlice
from unet_bundle.io.dicom.resampling import to_source_slices

__all__ = ["DicomSeriesReader", "SourceSeries", "SourceSlice", "to_source_slices"]
