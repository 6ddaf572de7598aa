"""From a run's best weights to the weights the bundle ships, and whether those may be scored on given cases."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import nn

from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.io.files import remove_unfinished
from unet_bundle.networks.checkpoint import bare, ensemble_files, load_checkpoint, load_weights, short_name
from unet_bundle.training.averaging import WeightAverage
from unet_bundle.training.checkpoints import BEST, save_atomically
from unet_bundle.training.distributed import from_main_process, in_any_process, is_main_process, wait_for_others
from unet_bundle.training.pretrained import state_dict_of
from unet_bundle.training.trained_cases import (
    Origin,
    copy_weights,
    hashes_of,
    read_trained_cases,
    write_trained_cases,
)

logger = logging.getLogger(__name__)

REPLACED = "replaced.pt"
"""The bundle's weights before the last ones that took their place: in the run's folder, weights are dear."""
OLD_S = 3600.0
"""Age in seconds of a file left half-written beside the bundle's weights, which no other fold's run is writing now."""


def weights_to_score(
    path: str,
    fold: int,
    part: str,
    cases: Sequence[Mapping[str, Any]] = (),
    ensemble: Sequence[str] | None = None,
    ensemble_folder: str = ".",
) -> list[Path]:
    """The files of the weights that inference runs, unless scoring them on these cases would not be fair.

    Args:
        path: of the weights that are run where there is no ensemble.
        fold: whose cases are to be scored.
        part: ``"validation"``, ``"train"`` or ``"all"`` of them.
        cases: that are to be scored, with an ``"image"`` path each.
        ensemble: files of weights that are run in place of `path`.
        ensemble_folder: what these files are relative to.

    Raises:
        CheckpointError: a file of the ensemble is missing.
        ConfigError: weights were trained on some of the validation cases; or an ensemble that is no list of files.
    """
    files = ensemble_files(ensemble, ensemble_folder) or [Path(path)]
    if part == "validation":
        for file in files:
            _check_unseen(file, fold, cases)
    return files


def _check_unseen(path: Path, fold: int, cases: Sequence[Mapping[str, Any]]) -> None:
    if not path.is_file():  # what loads it says so
        return
    trained, name = read_trained_cases(path), short_name(path)
    if trained is None:
        logger.warning("Nothing is known of the cases %s was trained on: they may be among those scored.", name)
    elif seen := trained.among(cases):
        own = "" if trained.fold == fold else f"evaluate --fold {trained.fold}, or "
        raise ConfigError(
            f"{name} was trained on {seen} of the {len(cases)} validation cases of fold {fold}: {own}give"
            f" --checkpoint runs/fold_{fold}/{BEST} of a training on these folds, from weights that did not see them."
        )
    elif not trained.complete:
        logger.warning(
            "%s started from weights of which nothing is known: cases those were trained on may be among those scored.",
            name,
        )


class PublishModel:
    """When training ends, puts its best weights into the bundle as float16, if they beat the weights that are there.

    Beside the run's best weights it notes, whenever there are better ones, which cases they were trained on.
    Both are scored on the validation cases of this run, as float16. Without validation cases (an annotation server may
    have none) the last weights are published. Weights that are replaced are kept in the run's folder as
    ``replaced.pt``. Where only one of the two was trained on validation cases of this run, itself or in what it started
    from, the weights that are there stay: no comparison would be fair. It is where both were, as with an annotation
    server's, which go on from those that are there.

    Args:
        network: what was trained.
        evaluator: the run's validation, which knows the best score.
        scorer: does the same validation without leaving a trace of it, for the weights that are there.
        folder: of the run, where the best weights lie.
        path: of the bundle's weights.
        fold: that this run validates on.
        inputs: values by name that training and inference must agree on, as this run has them.
        inference_config: ``inference.json``, whose values of those names the weights will be used with.
        trained_on: this run's training cases, with an ``"image"`` path each.
        validated_on: its validation cases, alike.
        average: of the weights, published in their place if it is on.
        origin: what is known of the weights the run starts from.

    Raises:
        ConfigError: when training starts, if it would make weights that inference feeds otherwise.
    """

    def __init__(
        self,
        network: nn.Module,
        evaluator: Evaluator,
        scorer: Evaluator,
        folder: str,
        path: str,
        fold: int,
        inputs: Mapping[str, Any],
        inference_config: str,
        trained_on: Sequence[Mapping[str, Any]] = (),
        validated_on: Sequence[Mapping[str, Any]] = (),
        average: WeightAverage | None = None,
        origin: Origin | None = None,
    ) -> None:
        self.network = network
        self.evaluator = evaluator
        self.scorer = scorer
        self.folder = Path(folder)
        self.path = Path(path)
        self.fold = fold
        self.inputs = inputs
        self.inference_config = Path(inference_config)
        self.trained_on = trained_on
        self.validated_on = validated_on
        self.average = average or WeightAverage(network, evaluator)
        self.origin = origin or Origin()

    def attach(self, engine: Engine) -> None:
        """Publish when `engine` has completed all its epochs; refuse at its start what could not be used."""
        engine.add_event_handler(Events.STARTED, self._check_inputs)
        engine.add_event_handler(Events.STARTED, self._note_start)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._note_best)
        engine.add_event_handler(Events.COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """Score, compare, publish; the network that was trained stays as it is."""
        self._note_best(engine)  # the last epoch is validated after all, where the interval left it out
        if self._is_published():  # and the run died before all was written
            wait_for_others()
            if is_main_process():
                write_trained_cases(self.path, self.fold, self.trained_on, self.origin)
            return
        # Other runs may write there now: one process decides for all.
        if not from_main_process(int(is_main_process() and self._is_comparable())):
            return
        weights = self.average.weights()
        if self.evaluator.state.epoch_length:
            old = self._score_of_published()
            best = load_checkpoint(self.folder / BEST) if old is not None or is_main_process() else weights
            # Both as inference will have them.
            new = float(self.evaluator.state.best_metric) if old is None else self._score_of(_as_published(best))
            if old is not None and old >= new:
                logger.info("%s stays: it scores %.4f, the best of this run %.4f.", self.path.name, old, new)
                return
            logger.info("New %s: mean Dice %.4f%s.", self.path.name, new, "" if old is None else f", before {old:.4f}")
            weights = best
        else:
            logger.warning("No case is kept back: the last weights become %s, whatever they are worth.", self.path.name)
        wait_for_others()  # none of them looks for the published weights any more
        if is_main_process():
            self._publish(weights)

    def _is_comparable(self) -> bool:
        """Whether both, these weights and those that are there, know this run's validation cases equally little."""
        published = read_trained_cases(self.path)
        if published is None:
            return True
        cases = hashes_of(self.validated_on)
        seen_there, seen_here = published.hashes & cases, self.origin.hashes & cases
        if seen_there == seen_here:
            if seen_there:
                logger.warning(
                    "%d of the %d validation cases are among those that %s, and what this run started from, was trained"
                    " on: its score and that of this run are both too good.",
                    *(len(seen_there), len(cases), self.path.name),
                )
            return True
        if seen_there - seen_here:
            reason = f"it belongs to fold {published.fold} and was trained on {len(seen_there)}"
        else:
            reason = f"what this run started from was trained on {len(seen_here)}"
        logger.info(
            "%s stays: %s of the %d validation cases; those of this run are %s.",
            *(self.path.name, reason, len(cases), short_name(self.folder / BEST)),
        )
        return False

    def _is_published(self) -> bool:
        """Whether the bundle has the best weights of this run already, without the note of what they have seen."""
        best = self.folder / BEST
        here = is_main_process() and best.is_file() and self.path.is_file() and read_trained_cases(self.path) is None
        return bool(from_main_process(int(here and self._is_same_as_published(load_checkpoint(best)))))

    def _is_same_as_published(self, weights: Mapping[str, torch.Tensor]) -> bool:
        """Whether the bundle has these weights, as exact as they are kept there."""
        if not self.path.is_file():
            return False
        try:
            published = state_dict_of(load_checkpoint(self.path), short_name(self.path))
        except CheckpointError:
            return False  # said when it is replaced
        return published.keys() == weights.keys() and all(
            torch.equal(tensor.cpu().half(), published[name].half()) for name, tensor in weights.items()
        )

    def _publish(self, weights: Mapping[str, torch.Tensor]) -> None:
        remove_unfinished(self.path.parent, OLD_S)
        if self.path.is_file():
            copy_weights(self.path, self.folder / REPLACED)
            logger.info("The weights that were there are kept as %s.", short_name(self.folder / REPLACED))
        save_atomically(_as_published(weights), self.path)
        write_trained_cases(self.path, self.fold, self.trained_on, self.origin)

    def _note_start(self, engine: Engine) -> None:
        """Stands behind what loads weights into the network in the list of handlers."""
        best = self.folder / BEST
        if engine.state.iteration > 0:  # a run that goes on, and may have died before it had noted its best weights
            known = self.evaluator.state.best_metric_epoch >= 0 and best.is_file()
            if known and is_main_process() and read_trained_cases(best) is None:
                write_trained_cases(best, self.fold, self.trained_on, self.origin)
        elif self._is_same_as_published(bare(self.network).state_dict()):
            self.origin.add(read_trained_cases(self.path))

    def _check_inputs(self, _engine: Engine) -> None:
        try:
            expected = json.loads(self.inference_config.read_text(encoding="utf-8"))
        except FileNotFoundError:  # a host that trains from a config of its own
            return
        for key, value in self.inputs.items():
            if key in expected and json.loads(json.dumps(value)) != expected[key]:
                raise ConfigError(
                    f"{key} is {value} in this run but {expected[key]} in {self.inference_config.name}, which will use"
                    " its weights: plan the bundle again with that value under `overrides` of the task card."
                )

    def _note_best(self, engine: Engine) -> None:
        """Stands after what saves the best weights in the list of handlers."""
        best = self.folder / BEST
        if self.evaluator.state.best_metric_epoch == engine.state.epoch and is_main_process() and best.is_file():
            write_trained_cases(best, self.fold, self.trained_on, self.origin)

    def _score_of_published(self) -> float | None:
        """Mean Dice of the weights in the bundle on this run's validation cases; None if there are none that fit."""
        published, problem = None, ""
        try:
            published = load_checkpoint(self.path) if self.path.is_file() else None
        except CheckpointError as error:
            problem = str(error)
        if in_any_process(published is None, self.evaluator.state.device):
            if problem:
                logger.warning("%s It is replaced.", problem)
            return None
        try:
            return self._score_of(published)
        except CheckpointError as error:
            logger.warning("%s It is replaced.", error)
            return None

    def _score_of(self, weights: Any) -> float:
        """Mean Dice of weights on this run's validation cases.

        Raises:
            CheckpointError: they do not fit.
        """
        trained = {k: v.clone() for k, v in bare(self.network).state_dict().items()}
        load_weights(self.network, weights, short_name(self.path))
        try:
            self.scorer.run()
        finally:
            load_weights(self.network, trained, "the trained network")
        return float(self.scorer.state.metrics[self.scorer.state.key_metric_name])


def _as_published(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """In float16: half the size, and exact enough."""
    return {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
