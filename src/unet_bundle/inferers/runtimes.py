"""What runs a network: PyTorch itself, or a runtime that is handed the network once and may then be faster at it."""

from __future__ import annotations

import math
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from unet_bundle.errors import ConfigError
from unet_bundle.inferers.backends import RUNTIMES, Run, missing, prepare
from unet_bundle.inferers.network_call import first_output
from unet_bundle.inferers.runtime_choice import fastest_runtime
from unet_bundle.networks.checkpoint import bare, weights_version

MOST_SHAPES = 8
"""Of windows for which a network is kept prepared; those that were used last."""


class Runtime:
    """Runs networks by one runtime.

    Each is handed over once for each shape of windows, and again if its weights change (see `weights_version`). Fewer
    windows than it was handed over for are filled up to as many. What was prepared is kept as long as the network
    lives. Threads may share a runtime. A copy, and what is loaded from a pickle, has nothing prepared.

    Args:
        name: one of `RUNTIMES`; all but ``"torch"`` take networks in evaluation mode, called with windows alone.

    Raises:
        ConfigError: an unknown name, or a library that is not installed; when called, for a network, device or number
            format that the runtime is not for.
    """

    def __init__(self, name: str = "torch") -> None:
        if name not in RUNTIMES:
            raise ConfigError(f"runtime must be one of {', '.join(RUNTIMES)}, not {name!r}")
        reason = missing(name)
        if reason:
            raise ConfigError(f"runtime {name!r} {reason}")
        self.name = name
        self._made: weakref.WeakKeyDictionary[nn.Module, _Made] = weakref.WeakKeyDictionary()
        self._choices: dict[str, str] = {}
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, str]:
        return {"name": self.name}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["name"])  # type: ignore[misc]

    def version(self, network: Any) -> Any:
        """Of the weights, for calls that follow each other while nobody changes them; None if it is not asked for."""
        return weights_version(network) if self.name != "torch" and isinstance(network, nn.Module) else None

    def __call__(
        self, network: Callable[..., Any], windows: torch.Tensor, *, dtype: torch.dtype, version: Any = None
    ) -> Any:
        """Scores of windows [windows, channels, *spatial].

        Args:
            network: a module; its own output, whatever that is, if the runtime is ``"torch"``.
            windows: on the network's device.
            dtype: what to compute in.
            version: what `version` gave for the network as it is now; None: it is found out.
        """
        if self.name == "torch":
            return network(windows)
        if not isinstance(network, nn.Module):
            raise ConfigError(f"runtime {self.name!r} needs a network that is called with windows alone: set 'torch'")
        if any(module.training for module in network.modules()):
            raise ConfigError(
                f"runtime {self.name!r} is for networks in evaluation mode: call eval() of the network first"
            )
        weights = weights_version(network) if version is None else version
        with self._lock:
            made = self._made.get(network)
            if made is None or made.weights != weights:
                made = self._made[network] = _Made(weights)
            shape = (tuple(windows.shape[1:]), windows.device, dtype, torch.get_num_threads())
            prepared = made.fitting(len(windows), shape)
            if prepared is None:
                prepared = made.keep(self._prepared(bare(network), windows, dtype), shape)
        if prepared.run is None:
            return first_output(network(windows))
        try:
            return prepared.run(_filled(windows, int(prepared.windows)))[: len(windows)]
        except torch.OutOfMemoryError:
            with self._lock:
                made.forget(shape)  # else fewer windows would be filled up to as many again
            raise

    def _prepared(self, network: nn.Module, windows: torch.Tensor, dtype: torch.dtype) -> _Prepared:
        if self.name != "auto":
            return _Prepared(prepare(self.name, network, windows, dtype), len(windows))
        run = fastest_runtime(network, windows, dtype, self._choices)
        return _Prepared(run, math.inf if run is None else len(windows))


@dataclass(frozen=True)
class _Prepared:
    """A network as a runtime has it; None: PyTorch itself, for any number of windows."""

    run: Run | None
    windows: float


@dataclass
class _Made:
    """What was made of a network: with which weights, and for which windows; those that were used last at the end."""

    weights: Any
    runs: OrderedDict[tuple[Any, float], _Prepared] = field(default_factory=OrderedDict)

    def fitting(self, count: int, shape: Any) -> _Prepared | None:
        """What was prepared for the least number of windows that suffices."""
        numbers = [number for each, number in self.runs if each == shape and number >= count]
        if not numbers:
            return None
        key = (shape, min(numbers))
        self.runs.move_to_end(key)
        return self.runs[key]

    def forget(self, shape: Any) -> None:
        for key in [key for key in self.runs if key[0] == shape]:
            del self.runs[key]

    def keep(self, prepared: _Prepared, shape: Any) -> _Prepared:
        self.runs[shape, prepared.windows] = prepared
        while len(self.runs) > MOST_SHAPES:
            self.runs.popitem(last=False)
        return prepared


def _filled(windows: torch.Tensor, count: int) -> torch.Tensor:
    """As many windows as `count`: the last one again and again."""
    if len(windows) == count:
        return windows
    return torch.cat([windows, windows[-1:].expand(count - len(windows), *windows.shape[1:])])
