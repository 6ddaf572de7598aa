"""A running mean of the weights, which often scores better than the weights of any one step."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from ignite.engine import Engine, Events
from monai.engines import Evaluator
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from unet_bundle.errors import ConfigError
from unet_bundle.networks.checkpoint import bare
from unet_bundle.training.handlers import on_failure

Weights = dict[str, torch.Tensor]


class WeightAverage:
    """Exponential moving average of the weights: validated, kept as the best and published in their place.

    After step ``t`` the average goes ``1 - d`` of the way to the weights, with ``d = min(decay, (1 + t) / (10 + t))``:
    so it does not carry the random weights of the start with it for long. While `evaluator` runs, the network holds it.

    Args:
        network: what is trained.
        evaluator: scores the average.
        decay: the share that stays in each step, such as 0.999; 0 is off: everything stays as if this were not there.

    Raises:
        ConfigError: `decay` is not in [0, 1).
    """

    def __init__(self, network: nn.Module, evaluator: Evaluator, decay: float = 0.0) -> None:
        if not 0 <= decay < 1:
            raise ConfigError(f"ema_decay must be 0 (off) or between 0 and 1, such as 0.999, not {decay!r}.")
        self.network = network
        self.evaluator = evaluator
        self.decay = decay
        self._other: Weights = {}  # the average; while the evaluator runs, the trained weights
        self._exchanged = False

    def attach(self, engine: Engine) -> None:
        """Follow the steps of `engine`; stands before what saves weights in the list of handlers."""
        if self.decay == 0:
            return
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._update)
        self.evaluator.add_event_handler(Events.STARTED, self._exchange)
        self.evaluator.add_event_handler(Events.COMPLETED, self._exchange_back)
        on_failure(self.evaluator, self._exchange_back)

    def weights(self) -> Weights:
        """The weights to score and to ship: the average if there is one."""
        return self._state(not self._exchanged)

    def trained(self) -> Weights:
        """The weights that training goes on with, also while the evaluator runs."""
        return self._state(self._exchanged)

    def state_dict(self) -> Weights:
        """The average; empty if there is none."""
        now = bare(self.network).state_dict()
        return {key: now[key] for key in self._other} if self._exchanged else dict(self._other)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on with an average.

        Raises:
            ValueError: it is not of this network, or there is none where one is to be kept, or the other way round.
        """
        now = _floating(self.network)
        expected = {key: value.shape for key, value in now.items()} if self.decay else {}
        if {key: value.shape for key, value in state.items()} != expected:
            raise ValueError("no average of these weights")
        self._other = {key: value.to(now[key].device, now[key].dtype) for key, value in state.items()}

    def _state(self, other: bool) -> Weights:
        state: Weights = bare(self.network).state_dict()
        return {**state, **self._other} if other else state

    def _start(self, _engine: Engine) -> None:
        self._other = {}  # a host that trains again may have put other weights into the network

    def _update(self, engine: Engine) -> None:
        now = _floating(self.network)
        if not self._other:
            self._other = {key: value.clone() for key, value in now.items()}
            return
        steps = engine.state.iteration
        move = get_ema_multi_avg_fn(min(self.decay, (1 + steps) / (10 + steps)))
        move(list(self._other.values()), list(now.values()), steps)

    @torch.no_grad()
    def _exchange(self, _engine: Engine) -> None:
        # Values, not tensors: the optimiser and a compiled network hold on to theirs.
        now = _floating(self.network)
        for key, value in self._other.items():
            kept = now[key].clone()
            now[key].copy_(value)
            value.copy_(kept)
        self._exchanged = not self._exchanged

    def _exchange_back(self, engine: Engine) -> None:
        if self._exchanged:
            self._exchange(engine)


def _floating(network: nn.Module) -> Weights:
    return {key: value for key, value in bare(network).state_dict().items() if value.is_floating_point()}
