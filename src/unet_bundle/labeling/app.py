"""The app that a MONAI Label server runs for one bundle; see `launch` for how it is started."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import monailabel.datastore.dicom
import monailabel.endpoints.infer
import monailabel.interfaces.app
import requests
from monailabel.datastore.local import LocalDatastore
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore, DefaultLabelTag
from monailabel.interfaces.exception import ImageNotFoundException
from monailabel.utils.async_tasks.utils import background_executors, background_processes

from unet_bundle.errors import InputError
from unet_bundle.labeling.annotations import reason_to_leave_out
from unet_bundle.labeling.datastore import PacsDatastore
from unet_bundle.labeling.dicom import DicomTools, download_series
from unet_bundle.labeling.ending import end_tasks_with_server
from unet_bundle.labeling.segmenting import ServedBundle
from unet_bundle.labeling.storing import by_values
from unet_bundle.labeling.tasks import NO_SCAN, GoBack, Segment, SegmentMany, Spread, Train, Uncertainty, answering
from unet_bundle.labeling.viewer import serve_viewer

logger = logging.getLogger(__name__)


class UnetBundleApp(MONAILabelApp):
    """Segment, label, train and choose with one bundle.

    Args:
        app_dir: folder of the app.
        studies: folder of scans, or root of a DICOMweb service.
        conf: ``bundle``, its folder; ``train_every``, how many new labels start a training (0: none does).
    """

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.bundle = ServedBundle(conf["bundle"])
        self.model = self.bundle.folder.resolve().name
        self.train_every = int(conf.get("train_every", "0"))
        self.new_labels = 0
        tools = DicomTools(self.bundle.folder)
        # MONAI Label has no place to plug in how DICOM is read and written: its own functions let a series with gaps
        # pass, call the i-th segment that occurs by the i-th name, and ask a PACS to unpack what is compressed.
        monailabel.endpoints.infer.nifti_to_dicom_seg = answering(tools.nifti_to_dicom_seg)
        monailabel.datastore.dicom.nifti_to_dicom_seg = answering(tools.annotation_to_dicom_seg)
        monailabel.interfaces.app.DICOMWebDatastore = PacsDatastore
        monailabel.datastore.dicom.dicom_to_nifti = answering(tools.dicom_to_nifti)
        monailabel.datastore.dicom.dicom_web_download_series = answering(download_series)
        metadata = self.bundle.metadata
        super().__init__(
            app_dir=app_dir, studies=studies, conf=conf, name=metadata.get("name", self.model),
            description=metadata.get("description", ""), version=str(metadata.get("version", "")),
            labels=list(self.bundle.labels),
        )  # fmt: skip

    def init_datastore(self) -> Datastore:
        """MONAI Label's, which stores label maps with the bundle's values, however a client numbers its segments."""
        datastore = super().init_datastore()
        save = datastore.save_label

        def saved(image_id: str, label: str, tag: str, info: dict[str, Any], *rest: Any) -> str:
            listed = (info or {}).get("label_info")
            with by_values(label, listed, {"background": 0, **self.bundle.labels}) as stored:
                try:
                    label_id: str = save(image_id, stored, tag, info, *rest)
                except ImageNotFoundException as error:
                    raise InputError(NO_SCAN) from error
            return label_id

        datastore.save_label = answering(saved)
        return datastore

    def init_infers(self) -> dict[str, Any]:
        """One model."""
        return {self.model: Segment(self.bundle)}

    def init_trainers(self) -> dict[str, Any]:
        """Its training, and the way back."""
        return {self.model: Train(self.bundle), f"{self.model}_back": GoBack(self.bundle)}

    def init_strategies(self) -> dict[str, Any]:
        """Ours first: clients offer it before MONAI Label's own."""
        return {"spread": Spread(), **super().init_strategies()}

    def init_scoring_methods(self) -> dict[str, Any]:
        """One."""
        return {"uncertainty": Uncertainty(self.bundle)}

    def train(self, request: dict[str, Any]) -> Any:
        """Train, then have the scans scored again if another model is served."""
        before = self.bundle.stamp
        result = super().train(request)
        if self.bundle.stamp != before:
            try:
                self.async_scoring("uncertainty")
            except requests.RequestException:  # this is another process than the server, and that is gone
                logger.warning("The server does not answer: scans are not scored with the new model.")
        return result

    def on_save_label(self, image_id: str, label_id: str) -> dict[str, Any]:
        """Say what is wrong with a label that was stored; start a training if it is time."""
        answer: dict[str, Any] = {}
        # Of the file that is here: a PACS would be asked for a series of this name.
        uri = LocalDatastore.get_label_uri(self.datastore(), label_id, DefaultLabelTag.FINAL)
        if not uri or not Path(uri).is_file():
            return answer
        image = LocalDatastore.get_image_uri(self.datastore(), image_id)
        reason = reason_to_leave_out({"image": image, "label": uri}, self.bundle.values)
        if reason is not None:
            classes = ", ".join(f"{value} {name}" for name, value in self.bundle.labels.items())
            answer["warning"] = f"stored, but left out of training: {reason} (classes: {classes})"
            logger.warning("%s: %s", image_id, answer["warning"])
        else:
            self.new_labels += 1
            if self.train_every and self.new_labels >= self.train_every:
                self.new_labels = 0
                self.async_training(self.model)
        return answer

    def on_init_complete(self) -> None:
        """Answer for the viewer, and end trainings with the server: this runs in it alone, not where it trains."""
        import monailabel.app

        super().on_init_complete()
        serve_viewer(monailabel.app.app)
        end_tasks_with_server(background_processes, background_executors)

    def init_batch_infer(self) -> Any:
        """Also without a GPU."""
        return SegmentMany()

    def _download_dcmqi_tools(self) -> None:
        """Nothing: DICOM SEG is written by ours, and a server does not fetch programs."""
