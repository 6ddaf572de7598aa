"""Scores on the scan's own grid, against the untouched label file, written at the end of an evaluation."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import monai.handlers
import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events
from monai.handlers import from_engine

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.evaluation.gathering import gathered_objects, gathered_scores
from unet_bundle.evaluation.instances import InstanceScores, instance_scores
from unet_bundle.evaluation.metrics import SURFACE_TOLERANCE_MM, ClassScores, case_scores, dice_scores
from unet_bundle.evaluation.report import as_csv, describe, describe_objects, mean_of, score_report
from unet_bundle.evaluation.units import Units, common_units, units_of
from unet_bundle.evaluation.worst import WorstCases, picture_path, shown_channels
from unet_bundle.geometry import as_4x4, grid_difference
from unet_bundle.io import case_name
from unet_bundle.io.files import write_text
from unet_bundle.transforms import Regions, paint_regions, painted_values, region_masks
from unet_bundle.transforms.instances import INSTANCES

logger = logging.getLogger(__name__)

OBJECTS = "label_objects"
"""Key of a label map that still has the numbers of its objects."""


class MeanDice(monai.handlers.MeanDice):
    """Mean Dice over cases and classes without the background; a class absent from a label does not count in that case.

    Args:
        num_classes: number of classes, background included.
        ignore_index: value of voxels in labels that nobody labelled, which do not count; None if there are none.
        regions: name of each region to the classes it is made of, whose mean it is then; None: the mean of the classes.
        output_transform: from the engine's output to (predictions, labels), class indices of shape [1, *spatial];
            the default takes ``"pred"`` and ``"label"``.
    """

    def __init__(
        self,
        num_classes: int,
        ignore_index: int | None = None,
        regions: Regions | None = None,
        output_transform: Callable[[Any], Any] | None = None,
    ) -> None:
        taken = output_transform or from_engine(["pred", "label"])

        def compared(output: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
            predictions, labels = taken(output)
            if ignore_index is not None:
                counted = [label != ignore_index for label in labels]
                predictions = [each * mask for each, mask in zip(predictions, counted, strict=True)]
                labels = [each * mask for each, mask in zip(labels, counted, strict=True)]
            if regions is not None:
                predictions, labels = ([region_masks(each, regions) for each in part] for part in (predictions, labels))
            return predictions, labels

        super().__init__(
            include_background=regions is not None,
            num_classes=num_classes if regions is None else None,
            output_transform=compared,
        )

    def compute(self) -> Any:
        """The mean; not a number where nothing was compared, as when the end of an epoch is made up for."""
        return float("nan") if self.metric_fn.get_buffer() is None else super().compute()


def dice_table(prediction: torch.Tensor, label: torch.Tensor, num_classes: int) -> list[float | None]:
    """Dice of each class but the background.

    Args:
        prediction: class indices, shape [1, *spatial].
        label: class indices, the same shape.
        num_classes: number of classes, background included.

    Returns:
        One value a class. None where the class is in neither: nothing was to be found and nothing was, which is no
        measure of overlap. 0 where it is in one of them only.
    """
    return dice_scores(_classes(prediction), _classes(label), num_classes)


class SaveScores:
    """Scores every case against its label file and writes ``scores.csv``, ``scores.json`` and pictures of the worst.

    Dice, the 95th percentile of the Hausdorff distance (mm), surface Dice and the difference of the volumes (ml; of
    planes the areas in mm²; of PNG and TIFF pictures all in pixels), of each class and case: see
    `unet_bundle.evaluation.metrics` for their definitions and for absent classes, and
    `unet_bundle.evaluation.report` for the files.

    Args:
        labels: name of each class and its value.
        output_dir: where the files go.
        ignore_index: value of voxels in label files that nobody labelled and that count in no score; None if there are
            none.
        regions: name of each region to the classes it is made of: these are scored, also where the prediction has a
            channel for each; None: the classes are.
        surface_tolerance: mm within which two surfaces agree: one for all classes or by name (others have 1 mm).
        worst_cases: how many of the cases of lowest mean Dice are drawn, as ``worst_1_<case>.png`` and so on.
        colors: red, green and blue (0 to 255) by name of a class for the pictures; the others get colours of their own.
        objects: whether single objects are scored, too: those under ``"instances"`` of the output against those
            under ``"label_objects"`` of the batch; see `unet_bundle.evaluation.instances`.

    Raises:
        ConfigError: if a tolerance is no length or is given for no class, or `worst_cases` is below 0.
    """

    def __init__(
        self,
        labels: Mapping[str, int],
        output_dir: str,
        ignore_index: int | None = None,
        regions: Regions | None = None,
        surface_tolerance: float | Mapping[str, float] = SURFACE_TOLERANCE_MM,
        worst_cases: int = 0,
        colors: Mapping[str, Sequence[int]] | None = None,
        objects: bool = False,
    ) -> None:
        self.classes = [name for name, value in sorted(labels.items(), key=lambda item: item[1]) if value != 0]
        self.num_classes = len(self.classes) + 1
        self.ignore_index, self.regions = ignore_index, regions
        if regions is not None:
            self.classes = list(regions)
        self.tolerances = _tolerances(surface_tolerance, self.classes)
        self.folder = Path(output_dir)
        if worst_cases < 0:
            raise ConfigError(f"worst_cases is {worst_cases}: give a number of pictures, 0 for none")
        self.worst = WorstCases(labels, worst_cases, colors)
        self._missing: dict[str, str] | None = None
        self._files: list[str] = []
        self._units: set[Units] = set()
        self._rows: list[list[ClassScores]] = []
        self.objects = objects
        self._objects: list[InstanceScores] = []

    def attach(self, engine: Engine) -> None:
        """Score after each iteration of `engine`, write after its epoch."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._score)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    @contextmanager
    def one_by_one(self) -> Iterator[dict[str, str]]:
        """Take the runs of several engines, one a case, for a single evaluation and write its files at the end.

        Yields:
            An empty dictionary for the cases that cannot be scored and the reasons; the report names them.
        """
        self._clear()
        self._missing = {}
        try:
            yield self._missing
            if self._files:
                self._save(self._missing)
        finally:
            self._missing = None

    def _start(self, _engine: Engine) -> None:
        if self._missing is None:
            self._clear()

    def _clear(self) -> None:
        self._files.clear()
        self._units.clear()
        self._rows.clear()
        self._objects.clear()
        self.worst.clear()

    def _score(self, engine: Engine) -> None:
        output: Any = engine.state.output
        for number, item in enumerate(output):
            label = item["label"]
            file = str(item["pred"].meta["filename_or_obj"])  # the scan's: label files may be named otherwise
            name = case_name(file)
            if self._missing is not None and file in self._files:
                continue  # scored before another case of its batch was refused
            grid, affine = _affine(item["pred"]), _affine(label)
            difference = grid_difference(item["pred"].shape[1:], grid, label.shape[1:], affine)
            if difference is not None:
                raise InputError(f"{name}: image and label are not on one grid: {difference}; correct the label file.")
            _check_values(label, self.num_classes, self.ignore_index, name)
            prediction, truth = self._label_map(item["pred"]), _classes(label)
            counted = None
            if self.ignore_index is not None:
                counted = truth != self.ignore_index
                prediction, truth = prediction * counted, truth * counted
            if self.regions is None:
                scores = case_scores(prediction, truth, self.num_classes, affine, self.tolerances, counted)
            else:
                scores = self._region_scores(item["pred"], label, affine, counted)
            self._files.append(file)
            self._units.add(units_of(file, truth.ndim))
            self._rows.append(scores)
            if self.objects:
                batch: Any = engine.state.batch
                self._objects.append(instance_scores(_numbers(item[INSTANCES]), _numbers(batch[number][OBJECTS])))
            if self.worst.count and "image" in item:
                image = item["image"]
                scan = shown_channels(image.detach().cpu().numpy()), _affine(image)
                self.worst.offer(name, mean_of([row.dice for row in scores]), scan, (truth, affine), prediction)

    def _region_scores(
        self,
        prediction: torch.Tensor,
        label: torch.Tensor,
        affine: npt.NDArray[np.float64],
        counted: npt.NDArray[np.bool_] | None,
    ) -> list[ClassScores]:
        """Scores of each region, one after another: all at once would be as many volumes."""
        scores = []
        for number, (name, values) in enumerate((self.regions or {}).items()):
            region = {name: values}
            found = prediction[number][None] if len(prediction) > 1 else region_masks(prediction, region)
            masks = _classes(found), _classes(region_masks(label, region))
            scores += case_scores(*masks, 2, affine, [self.tolerances[number]], counted)
        return scores

    def _label_map(self, prediction: torch.Tensor) -> npt.NDArray[np.uint16]:
        if self.regions is not None and len(prediction) > 1:
            prediction = paint_regions(prediction > 0, painted_values(self.regions))[None]
        return _classes(prediction)

    def _write(self, engine: Engine) -> None:
        if self._missing is None:
            self._save({}, first=getattr(engine.state, "rank", 0) == 0)

    def _save(self, missing: Mapping[str, str], first: bool = True) -> None:
        if first:  # before the processes meet: each then draws the cases that it has seen
            for picture in _former_pictures(self.folder):
                picture.unlink(missing_ok=True)
        files, gathered = gathered_scores(self._files, self._rows, len(self.classes))
        rows = dict(zip(files, gathered, strict=True))  # with fewer cases than processes, some come more than once
        objects = dict(zip(files, gathered_objects(self._objects), strict=True)) if self.objects else None
        names = [case_name(file) for file in rows]
        twice = _repeated(names) or _repeated([case_name(file) for file in self._files])
        if twice:
            raise InputError(f"Several scans are named {twice[0]}: name each case differently.")
        report = score_report(
            dict(zip(names, rows.values(), strict=True)),
            self.classes,
            self.tolerances,
            worst_cases=self.worst.count,
            missing=missing,
            units=common_units(self._units),
            objects=None if objects is None else {case_name(file): scores for file, scores in objects.items()},
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.worst.draw(self.folder, report)
        if not first:
            return
        write_text(self.folder / "scores.json", json.dumps(report, indent=2) + "\n")
        write_text(self.folder / "scores.csv", as_csv(report))
        logger.info("Dice on the original grid, %d cases: %s.", len(names), describe(report))
        if objects is not None:
            logger.info("Objects: %s.", describe_objects(report))


def _former_pictures(folder: Path) -> list[Path]:
    """The pictures of an earlier evaluation, by its own report: a prediction may have a name like theirs."""
    try:
        worst = json.loads((folder / "scores.json").read_text(encoding="utf-8"))["worst"]
        return [picture_path(folder, rank, str(name)) for rank, name in enumerate(worst, start=1)]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _tolerances(stated: float | Mapping[str, float], classes: Sequence[str]) -> list[float]:
    """Tolerance of each class in mm."""
    by_name = stated if isinstance(stated, Mapping) else dict.fromkeys(classes, stated)
    for name, value in by_name.items():
        if name not in classes:
            raise ConfigError(f"surface_tolerance is given for {name!r}, which is no class: {', '.join(classes)} are")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ConfigError(f"surface_tolerance of {name!r} is {value!r}: give a length in mm")
    return [float(by_name.get(name, SURFACE_TOLERANCE_MM)) for name in classes]


def _classes(label: torch.Tensor) -> npt.NDArray[np.uint16]:
    """Class indices [*spatial] of a label map [1, *spatial]."""
    indices: npt.NDArray[np.uint16] = label[0].detach().cpu().numpy().astype(np.uint16)
    return indices


def _numbers(objects: torch.Tensor) -> npt.NDArray[np.int64]:
    """Numbers of the objects [*spatial] of a label map [1, *spatial]."""
    numbers: npt.NDArray[np.int64] = objects[0].detach().cpu().numpy().astype(np.int64)
    return numbers


def _affine(image: Any) -> npt.NDArray[np.float64]:
    return as_4x4(image.affine.detach().cpu().numpy())


def _check_values(label: torch.Tensor, num_classes: int, ignore_index: int | None, name: str) -> None:
    if ignore_index is not None:
        label = label[label != ignore_index]
        if not label.numel():
            return
    whole = bool((label == label.round()).all()) if label.is_floating_point() else True
    if whole and int(label.min()) >= 0 and int(label.max()) < num_classes:
        return
    unknown = [value for value in torch.unique(label).tolist() if value not in range(num_classes)]
    raise InputError(
        f"{name}: the label file holds the value {unknown[0]:g}, the classes are 0 to {num_classes - 1}: correct it"
        " or use a bundle that was planned for it."
    )
