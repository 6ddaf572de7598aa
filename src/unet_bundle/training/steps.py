"""One iteration of training and one of evaluation: the `iteration_update` of MONAI's Ignite engines.

They do what ``SupervisedTrainer._iteration`` and ``SupervisedEvaluator._iteration`` do, fire the same events and fill
the same keys, and add what those lack: reduced precision on any device, gradient clipping, a guard against losses that
are not finite, and deep supervision.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from monai.engines import SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents
from monai.utils.enums import CommonKeys as Keys

from unet_bundle.errors import ConfigError, UnetBundleError
from unet_bundle.precision import autocast, check_precision, resolve_precision
from unet_bundle.training.distributed import in_any_process

logger = logging.getLogger(__name__)


GRADIENT_NORM = "gradient_norm"
"""Where the output of a step has the length of its gradients (2-norm over all weights, before clipping)."""


class DivergedError(UnetBundleError, ArithmeticError):
    """Training no longer produces finite losses."""


class TrainStep:
    """One step of the optimiser.

    What `prepare_batch` gives beyond image and label, the loss gets behind them: weights of the voxels.

    Args:
        precision: see `resolve_precision`. The forward pass runs in it; loss, weights and their update in float32.
        max_gradient_norm: gradients longer than this (2-norm over all weights) are scaled down to it; None leaves them.
        max_bad_steps: steps in a row whose loss or gradients are not finite before training stops; each is skipped with
            a warning.
        seed: torch's random numbers in a step (dropout) become a function of it, the iteration and the process, and
            not of what ran before; None leaves them.
        compiled: compile the network by ``torch.compile`` when it first runs, for these steps alone: validation, whose
            windows come in other numbers, runs it as it is.

    Raises:
        ConfigError: `precision` is unknown, or not for the device; or another value makes no sense.
        DivergedError: more than `max_bad_steps` steps in a row were not finite.
    """

    def __init__(
        self,
        precision: str = "auto",
        max_gradient_norm: float | None = 12.0,
        max_bad_steps: int = 10,
        seed: int | None = None,
        compiled: bool = False,
    ) -> None:
        self.precision = check_precision(precision)
        if max_gradient_norm is not None and not (_is_number(max_gradient_norm) and max_gradient_norm > 0):
            raise ConfigError(f"max_gradient_norm must be positive, or null for no limit, not {max_gradient_norm!r}.")
        if not (_is_number(max_bad_steps) and max_bad_steps >= 0):
            raise ConfigError(f"max_bad_steps must be a number of steps, 0 or more, not {max_bad_steps!r}.")
        self.seed = seed
        self.max_gradient_norm = max_gradient_norm
        self.max_bad_steps = max_bad_steps
        self.compiled = compiled
        self._network: Callable[..., Any] | None = None
        self._bad_steps = 0
        self._scaler: torch.amp.GradScaler | None = None
        self._scaler_state: Mapping[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """What the next step depends on beside the weights: the scale of float16's loss, steps skipped in a row."""
        scaler = self._scaler_state if self._scaler is None else self._scaler.state_dict()
        return {"bad_steps": self._bad_steps, "scaler": dict(scaler)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._bad_steps, self._scaler_state, self._scaler = state["bad_steps"], state["scaler"], None

    def __call__(self, engine: SupervisedTrainer, batch: Any) -> dict[str, torch.Tensor]:
        """Run one iteration; returns image, label, prediction (full resolution, float32), loss, gradient norm."""
        device = engine.state.device
        dtype = resolve_precision(self.precision, device)
        if self._scaler is None:
            self._scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
            if self._scaler.is_enabled() and self._scaler_state:
                self._scaler.load_state_dict(dict(self._scaler_state))
        if self.seed is not None:
            position = [self.seed, engine.state.iteration, engine.state.rank]
            torch.manual_seed(int(np.random.SeedSequence(position).generate_state(1)[0]))
        inputs, targets, *weights = engine.prepare_batch(batch, device, engine.non_blocking, **engine.to_kwargs)
        # The engine takes its batch apart into cases later: what the loader gave may not be stacked yet.
        engine.state.batch = {Keys.IMAGE: inputs, Keys.LABEL: targets}

        engine.network.train()
        engine.optimizer.zero_grad(set_to_none=True)
        with autocast(device, dtype):
            outputs = engine.inferer(inputs, self._network_of(engine))
        heads = outputs if isinstance(outputs, list | tuple) else [outputs]
        heads = [head.float() for head in heads]
        output: dict[str, Any] = {Keys.IMAGE: inputs, Keys.LABEL: targets, Keys.PRED: heads[0].detach()}
        engine.state.output = output
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)

        loss = engine.loss_function(heads if len(heads) > 1 else heads[0], targets, *weights).mean()
        output[Keys.LOSS] = loss.detach()
        engine.fire_event(IterationEvents.LOSS_COMPLETED)

        self._scaler.scale(loss).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        output[GRADIENT_NORM] = self._update(engine, loss.detach())
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output  # type: ignore[no-any-return]  # a handler may have replaced it

    def _network_of(self, engine: SupervisedTrainer) -> Callable[..., Any]:
        if not self.compiled:
            return engine.network
        if self._network is None:
            logger.info("The network is compiled first, which takes half a minute or more.")
            self._network = torch.compile(engine.network)
        return self._network

    def _update(self, engine: SupervisedTrainer, loss: torch.Tensor) -> torch.Tensor:
        """Change the weights; returns the length of the gradients before they were scaled down."""
        assert self._scaler is not None  # noqa: S101  (made in __call__, for the type checker)
        self._scaler.unscale_(engine.optimizer)
        limit = float("inf") if self.max_gradient_norm is None else self.max_gradient_norm
        norm = torch.nn.utils.clip_grad_norm_(engine.network.parameters(), limit)
        # All processes have the same gradients, but each a loss of its own: they take a step together or not at all.
        if not in_any_process(not bool(torch.isfinite(loss) and torch.isfinite(norm)), loss.device):
            self._bad_steps = 0
            self._scaler.step(engine.optimizer)
        else:
            self._skip(engine)
        self._scaler.update()  # with float16: halves the scale of the loss after gradients that were too large for it
        return norm.detach()

    def _skip(self, engine: SupervisedTrainer) -> None:
        self._bad_steps += 1
        iteration = engine.state.iteration
        if self._bad_steps > self.max_bad_steps:
            raise DivergedError(
                f"Training diverged: the loss was not finite in {self._bad_steps} steps in a row up to iteration"
                f" {iteration}; lower --learning_rate or set --precision float32."
            )
        logger.warning("Iteration %d: loss or gradients are not finite, step skipped.", iteration)


class EvaluationStep:
    """One batch of validation or inference.

    Args:
        precision: see `resolve_precision`; logits handed on are float32 in any case.
    """

    def __init__(self, precision: str = "float32") -> None:
        self.precision = check_precision(precision)

    def __call__(self, engine: SupervisedEvaluator, batch: Any) -> dict[str, torch.Tensor]:
        """Run one iteration; returns image, label (None for inference) and prediction (float32 logits, or labels)."""
        device = engine.state.device
        inputs, targets = engine.prepare_batch(batch, device, engine.non_blocking, **engine.to_kwargs)
        output = {Keys.IMAGE: inputs, Keys.LABEL: targets}
        engine.state.output = output
        dtype = resolve_precision(self.precision, device)
        with engine.mode(engine.network), autocast(device, dtype):
            prediction = engine.inferer(inputs, engine.network)
        # Logits in reduced precision; not the float16 of an inferer's probabilities, which may be larger than memory.
        output[Keys.PRED] = prediction.float() if prediction.dtype == dtype else prediction
        engine.fire_event(IterationEvents.FORWARD_COMPLETED)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output  # type: ignore[no-any-return]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
