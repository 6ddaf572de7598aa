"""What a MONAI Label server asks of us: segmenting, training, going back, scoring and choosing the next scan."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from monai.bundle import ConfigParser, run
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.batch_infer import BatchInferTask
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.transform.writer import Writer
from monailabel.utils.others.generic import device_list, name_to_device

from unet_bundle.errors import ConfigError, InputError, UnetBundleError
from unet_bundle.labeling.annotations import split_cases, usable_cases, values_of_annotators
from unet_bundle.labeling.segmenting import PASSES, ServedBundle, stamp_of
from unet_bundle.labeling.spread import Candidate, Features, choose, describe, within_reach
from unet_bundle.labeling.versions import Versions
from unet_bundle.precision import check_device
from unet_bundle.runtime import error_message
from unet_bundle.training.publishing import REPLACED
from unet_bundle.training.trained_cases import read_trained_cases

logger = logging.getLogger(__name__)

SCORE = "uncertainty"
STAMP = "uncertainty_of"
AT_HAND_S = 4 * 3600
"""Seconds for which a scan that was handed to someone counts as being labelled."""
WRITTEN = (".nii.gz", ".nii", ".nrrd", ".mha", ".png", ".tif", ".tiff")
"""Formats of label maps; by the scan's, unless a client asks for another."""
ONE_LABEL = (
    "there is one label to train on, and none to tell by whether the new model is better than the one that is served:"
    " store a second one as final"
)
NO_SCAN = "the server has no scan of this name"
NEW_OF_PACS = 8
"""Series of a PACS that are fetched to be looked at each time someone asks for the next one."""


def refused(error: BaseException) -> HTTPException:
    """Our error as an answer of the server: of its own exceptions it tells clients nothing."""
    return HTTPException(400, error_message(error) or str(error))


def answering(convert: Callable[..., Any]) -> Callable[..., Any]:
    """What reads or writes DICOM, whose refusal clients see, wherever in the server it is called."""

    @functools.wraps(convert)
    def converted(*args: Any, **kwargs: Any) -> Any:
        try:
            return convert(*args, **kwargs)
        except UnetBundleError as error:
            raise refused(error) from error

    return converted


class Segment(InferTask):
    """Segment a scan: voxel for voxel what the MONAI CLI makes of it."""

    def __init__(self, bundle: ServedBundle) -> None:
        spatial = bundle.metadata["network_data_format"]["inputs"]["image"]["spatial_shape"]
        shown = {name: bundle.config[name] for name in bundle.config.get("displayable_configs", {})}
        super().__init__(
            InferType.SEGMENTATION, bundle.labels, len(spatial), bundle.metadata.get("description", ""), shown
        )
        self.bundle = bundle
        self.options = list(shown)
        self._config["device"] = device_list()

    def is_valid(self) -> bool:
        """Always: before there are weights it says so when it is asked."""
        return True

    def info(self) -> dict[str, Any]:
        """As MONAI Label's, with colours and whether there is a model."""
        segments = self.bundle.config.get("segments") or {}
        colors = {name: terms["color"] for name, terms in segments.items() if "color" in terms}
        trained = self.bundle.is_trained
        version = self.bundle.metadata.get("version")
        return {**super().info(), "version": version, "trained": trained, "label_colors": colors}

    def get_path(self, validate: bool = True) -> str | None:
        """File of the weights."""
        return str(self.bundle.weights) if self.bundle.is_trained or not validate else None

    def __call__(self, request: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
        """Segment ``request["image"]``; file and what is said of it."""
        start = time.monotonic()
        options = {name: request[name] for name in self.options if name in request}
        image = request["image"]
        if not image:  # MONAI Label's word for a scan that it does not have; as a path, it would be this folder
            raise refused(InputError(NO_SCAN))
        try:
            labels = self.bundle.segment(image, name_to_device(_first(request.get("device")) or "cuda"), options)
        except UnetBundleError as error:
            raise refused(error) from error
        given = {"image": labels, "image_path": image, "pred": labels[0].numpy(), "labels": self.labels}
        given["result_extension"] = next((ending for ending in WRITTEN if image.endswith(ending)), WRITTEN[0])
        given.update({key: value for key, value in request.items() if key.startswith("result_") and value is not None})
        path, said = Writer(label="pred", json="result", ref_image="image")(given)
        total = round(time.monotonic() - start, 2)
        return path, {**said, "label_names": self.labels, "latencies": {"total": total}, "centroids": {}}


class SegmentMany(BatchInferTask):
    """MONAI Label's, which divides by the number of GPUs."""

    def __call__(self, request: dict[str, Any], datastore: Datastore, infer: Callable[..., Any]) -> Any:
        """Segment all scans that are asked for, and store the label maps."""
        more = request if torch.cuda.is_available() else {**request, "multi_gpu": False}
        return super().__call__(more, datastore, infer)


class Train(TrainTask):
    """Go on training from the weights that are served, with the annotators' labels.

    The new weights are served if they score better on the labels that are kept back; those before are kept.
    """

    def __init__(self, bundle: ServedBundle) -> None:
        super().__init__("Go on training with the stored labels; the new model is served if it scores better.")
        self.bundle = bundle
        self.last: dict[str, Any] = {}

    def config(self) -> dict[str, Any]:
        """What a client offers to set."""
        return {"device": device_list(), "pretrained": True, "max_epochs": 20, "val_split": 0.2}

    def stats(self) -> dict[str, Any]:
        """What the last training in this process came to."""
        return self.last

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Train; what it came to."""
        cases, left_out = usable_cases(
            [{"image": entry["image"], "label": entry["label"]} for entry in datastore.datalist()], self.bundle.values
        )
        for name, reason in left_out.items():
            logger.warning("%s is left out of training: %s", name, reason)
        if not cases:
            raise refused(InputError("there is no label to train on: store some as final first."))
        seen = read_trained_cases(self.bundle.weights)
        share = float(request.get("val_split", 0.2))
        training, validation = split_cases(cases, share, seen)
        if share > 0 and not validation and self.bundle.is_trained:
            raise refused(InputError(ONE_LABEL))
        config = self._config_file()
        replaced = Path(config.get_parsed_content("output_dir")) / REPLACED
        before, replaced_before = self.bundle.stamp, stamp_of(replaced)
        try:
            self._run(request, training, validation, config)
        except Exception as error:
            if error_message(error) is None:
                raise
            raise refused(error) from error
        finally:
            published = self.bundle.stamp != before
            # What the training itself replaced: since it began someone may have gone back to another.
            if published and stamp_of(replaced) not in (None, replaced_before):
                Versions(self.bundle.folder).keep(replaced)
        self.last = {
            "published": published, "training": len(training), "validation": len(validation), "left_out": left_out,
        }  # fmt: skip
        logger.info("Training came to: %s", self.last)
        return self.last

    def _run(self, request: dict[str, Any], training: Any, validation: Any, config: ConfigParser) -> None:
        overrides: dict[str, Any] = {
            "bundle_root": str(self.bundle.folder),
            "device": check_device(name_to_device(_first(request.get("device")) or "cuda")),
            "max_epochs": int(request.get("max_epochs", 20)),
            "train#dataset#data": training,
            "validate#dataset#data": validation,
        }
        if "label_values" in config:
            overrides["label_values"] = values_of_annotators(config["label_values"], self.bundle.values)
        if request.get("pretrained", True) and self.bundle.is_trained:
            # The served weights themselves: `pretrained` would refuse those that saw a case which is kept back now.
            start = {
                "_target_": "unet_bundle.training.CheckpointLoader",
                "load_path": str(self.bundle.weights),
                "load_dict": {"model": "$@network"},
            }
            overrides["train#handlers"] = [start, *config["train#handlers"]]
        run(config_file=str(self.bundle.folder / "configs" / "train.json"), **overrides)

    def _config_file(self) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config(str(self.bundle.folder / "configs" / "train.json"))
        parser["bundle_root"] = str(self.bundle.folder)
        return parser


class GoBack(TrainTask):
    """Serve the model before again."""

    def __init__(self, bundle: ServedBundle) -> None:
        super().__init__("Serve the model before again; `train` this to do so.")
        self.bundle = bundle

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:  # noqa: ARG002
        """Go back; which one is served."""
        try:
            return {"served": Versions(self.bundle.folder).back().stem}
        except ConfigError as error:
            raise refused(error) from error


class Uncertainty(ScoringMethod):
    """Score every scan without a label by predictive entropy, see `ServedBundle.uncertainty`."""

    def __init__(self, bundle: ServedBundle) -> None:
        super().__init__("How undecided the network is: entropy of its mean probabilities over passes")
        self.bundle = bundle

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        """Score; how many."""
        if not self.bundle.is_trained:
            return {"scored": 0, "reason": "there is no model yet"}
        stamp = str(self.bundle.stamp)
        scored, refusals = 0, {}
        passes = int(request.get("passes", PASSES))
        device = name_to_device(_first(request.get("device")) or "cuda")
        for name in sorted(datastore.get_unlabeled_images()):
            info = datastore.get_image_info(name)
            if info.get(STAMP) == stamp or "path" not in info:  # of a PACS, those that were fetched
                continue
            try:
                score = self.bundle.uncertainty(datastore.get_image_uri(name), device, passes)
            except (UnetBundleError, HTTPException) as error:
                refusals[name] = str(error)
                continue
            datastore.update_image_info(name, {SCORE: round(score, 4), STAMP: stamp})
            scored += 1
        return {"scored": scored, "refused": refusals}


class Spread(Strategy):
    """The scan that is unlike those with a label, and that the network is unsure of, see `spread.choose`."""

    def __init__(self) -> None:
        super().__init__("Unlike what is labelled, and hard for the network")
        self._described: dict[str, Features | None] = {}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any] | None:
        """Choose; None if all scans have labels."""
        name = request.get("strategy", "spread")
        candidates: list[Candidate] = []
        at_hand: list[Candidate] = []
        unlabeled = set(datastore.get_unlabeled_images())
        done = self._within_reach(set(datastore.list_images()) - unlabeled, datastore, new=0)
        for image, features in self._within_reach(unlabeled, datastore, NEW_OF_PACS).items():
            info = datastore.get_image_info(image)
            served = info.get("strategy", {}).get(name, {}).get("ts", 0)
            is_at_hand = time.time() - served < AT_HAND_S
            (at_hand if is_at_hand else candidates).append(Candidate(image, features, info.get(SCORE)))
        if not candidates:  # all are with someone: the one that was handed out first is due again
            candidates, at_hand = at_hand, []
        if not candidates:
            return None
        chosen = choose(candidates, [*done.values(), *(each.features for each in at_hand)])
        return {"id": chosen.name, SCORE: chosen.score}

    def _within_reach(self, images: Iterable[str], datastore: Datastore, new: int) -> dict[str, Features]:
        return within_reach(
            images,
            is_here=lambda image: "path" in datastore.get_image_info(image),
            features=lambda image: self._features(image, datastore),
            refused=lambda image: self._described.get(image, ()) is None,
            new=new,
        )

    def _features(self, image: str, datastore: Datastore) -> Features | None:
        if image not in self._described:
            try:
                self._described[image] = describe(datastore.get_image_uri(image))
            except (UnetBundleError, HTTPException) as error:
                logger.warning("%s is not offered for labelling: %s", image, error)
                self._described[image] = None
        return self._described[image]


def _first(value: Any) -> Any:
    """Of a list of choices, as a client sends back what it was offered."""
    return value[0] if isinstance(value, list) else value
