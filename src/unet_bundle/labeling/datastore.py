"""MONAI Label's store of the scans in a PACS, as an annotation server can live with it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from fastapi import HTTPException
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import ImageNotFoundException

from unet_bundle.labeling.annotations_client import AnnotationsClient

logger = logging.getLogger(__name__)


class PacsDatastore(DICOMWebDatastore):
    """Where MONAI Label's collects what is labelled, one series that is refused would keep all others from training.

    It notes patients' ids, and logs them with each label: this one does not. Nor are results of programs labels.
    """

    _collects = threading.local()

    def __init__(self, client: Any, *options: Any, **others: Any) -> None:
        super().__init__(AnnotationsClient(client), *options, **others)

    def get_image_uri(self, image_id: str) -> str:
        """File of a scan, fetched if need be."""
        return self._or_left_out(image_id, super().get_image_uri, image_id)

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """File of a label map, alike."""
        return self._or_left_out(image_id or label_id, super().get_label_uri, label_id, label_tag, image_id)

    def _download_labeled_data(self) -> None:
        self._collects.now = True
        try:
            super()._download_labeled_data()
        finally:
            self._collects.now = False

    def _dicom_info(self, series_id: str) -> dict[str, Any]:
        return {**super()._dicom_info(series_id), "PatientID": "UNK"}  # MONAI Label's word for what a header lacks

    def _or_left_out(self, image: str, get: Callable[..., str], *asked: str) -> str:
        try:
            return get(*asked)
        except (HTTPException, ImageNotFoundException) as error:
            if not getattr(self._collects, "now", False):
                raise
            logger.warning("%s is left out: %s", image, getattr(error, "detail", "its scan was refused"))
            return ""
