"""Decides during an evaluation whether label maps are to be cleaned, and how."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents

from unet_bundle.errors import ConfigError
from unet_bundle.evaluation.cleaning import (
    MARGIN,
    CaseObjects,
    Cleaning,
    choose_cleaning,
    describe,
    dice_without_filling,
    is_better,
    measure_objects,
)
from unet_bundle.evaluation.metrics import dice_scores
from unet_bundle.evaluation.report import mean_of
from unet_bundle.geometry import spacing_of
from unet_bundle.io import case_name
from unet_bundle.io.files import write_text
from unet_bundle.networks.checkpoint import short_name
from unet_bundle.training.distributed import from_all_processes, is_main_process
from unet_bundle.training.trained_cases import read_trained_cases
from unet_bundle.transforms import CleanLabelsd

logger = logging.getLogger(__name__)

FILE = "cleaning.json"

RULE = (
    f"A step is taken for a class if its mean Dice on the cases kept back rises by more than {MARGIN:g}, measured on"
    " labels that nothing has cleaned, and if with all steps together no class's mean falls (after Isensee et al."
    " 2021). keep_largest and smallest_object_ml: at most one a class, by the higher mean. Cases in which a class is in"
    " neither label nor prediction are not in its mean."
)


class ChooseCleaning:
    """Measures what `CleanLabelsd` would do to the Dice of each class and writes what helps to ``cleaning.json``.

    Labels are measured as the inferer gives them, whatever cleaning inference.json has. `RULE` says what is taken; see
    `unet_bundle.evaluation.cleaning` for its source and the steps by themselves. That the steps together keep their
    promise is known from the objects alone unless holes are filled, which may lie in an object of another class. Then
    the cleaning itself is run on the label maps, which lie in a temporary folder meanwhile; if together they do
    not, holes stay. Of the cases no more than their objects' sizes is kept in memory.

    Args:
        labels: name of each class and its value.
        output_dir: where the file goes.
        weights: files of the weights that are scored.
        cases: that are scored, with an ``"image"`` path each.

    Attributes:
        chosen: values for inference.json, after the run; None if no case was measured.

    Raises:
        ConfigError: the weights were trained on some of the cases; or, in the run, the inferer gives no labels.
    """

    def __init__(
        self,
        labels: Mapping[str, int],
        output_dir: str,
        weights: Sequence[str | Path] = (),
        cases: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.names = [name for name, value in sorted(labels.items(), key=lambda item: item[1]) if value != 0]
        self.path = Path(output_dir) / FILE
        self.chosen: Cleaning | None = None
        for file in map(Path, weights):
            trained = read_trained_cases(file)
            seen = 0 if trained is None else trained.among(cases)
            if seen:
                raise ConfigError(
                    f"choose_cleaning: {short_name(file)} was trained on {seen} of the {len(cases)} cases, and cleaning"
                    " is chosen on cases kept back: evaluate the validation cases of their fold."
                )
        self._one_by_one = False
        self._pending: torch.Tensor | None = None
        self._measured: dict[str, CaseObjects] = {}
        self._kept: dict[str, Path] = {}
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def attach(self, engine: Engine) -> None:
        """Measure after each iteration of `engine`, decide after its epoch."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(IterationEvents.FORWARD_COMPLETED, self._take)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._measure)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._end)

    @contextmanager
    def one_by_one(self) -> Iterator[None]:
        """Take the runs of several engines, one a case, for a single evaluation, and decide at its end."""
        self._clear()
        self._one_by_one = True
        try:
            yield
            if self._measured:
                self._decide()
        finally:
            self._one_by_one = False
            self._clear()

    def _start(self, _engine: Engine) -> None:
        if not self._one_by_one:
            self._clear()
            self.chosen = None

    def _clear(self) -> None:
        self._pending = None
        self._measured.clear()
        self._kept.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _take(self, engine: Engine) -> None:
        """Hold on to labels that nothing has cleaned; they count when the case was scored."""
        output: Any = engine.state.output
        labels = output["pred"].detach().as_subclass(torch.Tensor)
        if labels.is_floating_point() or labels.shape[1] != 1:
            raise ConfigError("choose_cleaning needs an inferer that gives labels: set inferer::output to labels")
        self._pending = labels

    def _measure(self, engine: Engine) -> None:
        output: Any = engine.state.output
        assert self._pending is not None  # noqa: S101  (the step before, for the type checker)
        kind = np.uint8 if len(self.names) < 256 else np.uint16
        for labels, item in zip(self._pending, output, strict=True):
            prediction, label = _classes(labels, kind), _classes(item["label"], kind)
            affine = item["pred"].affine.detach().cpu().numpy()
            voxel_ml = float(np.prod(spacing_of(affine)[: label.ndim])) / 1000
            file = str(item["pred"].meta["filename_or_obj"])
            case, encloses = measure_objects(prediction, label, len(self.names) + 1, voxel_ml)
            self._measured[file] = case
            if encloses:
                self._keep(file, prediction, label, affine)
        self._pending = None

    def _keep(self, file: str, prediction: Any, label: Any, affine: Any) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="unet-bundle-")
        self._kept.setdefault(file, Path(self._folder.name) / f"{len(self._kept)}.npz")
        arrays = {"prediction": prediction, "label": label, "affine": affine, "num_classes": len(self.names) + 1}
        np.savez_compressed(self._kept[file], **arrays)

    def _end(self, _engine: Engine) -> None:
        if not self._one_by_one:
            self._decide()
            self._clear()

    def _decide(self) -> None:
        # With fewer cases than processes, some come more than once.
        gathered = {file: case for share in from_all_processes(self._measured) for file, case in share.items()}
        cases = dict(sorted(gathered.items()))
        chosen, figures = choose_cleaning(list(cases.values()), self.names)
        before = [figure["dice"] for figure in figures.values()]
        together = self._means_with(cases, chosen)
        if chosen.fill_holes and not is_better(before, together, chosen.classes()):
            chosen = chosen.without_filling()
            together = self._means_with(cases, chosen)
        self.chosen = chosen
        if not is_main_process():
            return
        after = dict(zip(self.names, together, strict=True))
        content = {
            "rule": RULE,
            "margin": MARGIN,
            "cases": sorted(map(case_name, cases)),
            "classes": figures,
            "chosen": chosen.as_config(),
            "dice_with_chosen": after,
        }
        write_text(self.path, json.dumps(content, indent=2) + "\n")
        logger.info("%s", describe(chosen, figures, after, len(cases)))

    def _means_with(self, cases: Mapping[str, CaseObjects], chosen: Cleaning) -> list[float | None]:
        """Mean Dice of each class with all of the cleaning, over the cases of all processes."""
        dice = {file: dice_without_filling(case, chosen) for file, case in cases.items()}
        if chosen.fill_holes:
            clean = CleanLabelsd("pred", **chosen.as_config())
            own = {file: _cleaned_dice(path, clean) for file, path in self._kept.items()}
            for share in from_all_processes(own):
                dice.update(share)
        return [mean_of(values) for values in zip(*dice.values(), strict=True)]


def _classes(labels: torch.Tensor, kind: type[np.unsignedinteger[Any]]) -> npt.NDArray[np.unsignedinteger[Any]]:
    """Class indices [*spatial] of a label map [1, *spatial]."""
    return labels[0].detach().as_subclass(torch.Tensor).cpu().numpy().astype(kind)


def _cleaned_dice(path: Path, clean: CleanLabelsd) -> list[float | None]:
    """Dice of each class of a case that lies in the temporary folder, after cleaning."""
    with np.load(path) as case:
        prediction, label, affine = case["prediction"], case["label"], case["affine"]
        num_classes = int(case["num_classes"])
    cleaned = clean({"pred": MetaTensor(torch.from_numpy(prediction)[None], affine=affine)})["pred"]
    return dice_scores(cleaned[0].numpy(), label, num_classes)
