"""The bundle that is served: loaded once, again when its weights change, for labels and for how sure it is of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from monai.data import MetaTensor

from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.labeling.uncertainty import draw_dropout, predictive_entropy
from unet_bundle.predictor import Predictor

DROPOUT = 0.2
"""Share of features that a pass drops, where the bundle has no ensemble; that of MONAI Label's own scoring."""
PASSES = 5
LOADED = 4
"""Networks that are kept, of different devices and options."""


def is_plain(value: Any) -> bool:
    """Whether a value of a config is what it says: not an expression or a component, which would run what it names."""
    if isinstance(value, list):
        return all(map(is_plain, value))
    if isinstance(value, str):
        return not any(sign in value for sign in "$@%")
    return value is None or isinstance(value, bool | int | float)


def stamp_of(path: Path) -> tuple[int, int] | None:
    """Something that changes with a file; None if there is none."""
    try:
        file = path.stat()
    except FileNotFoundError:
        return None
    return file.st_mtime_ns, file.st_size


class ServedBundle:
    """A bundle of an annotation server.

    Args:
        folder: of the bundle; it need not have weights yet.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.weights = self.folder / "models" / "model.pt"
        self.config: dict[str, Any] = json.loads((self.folder / "configs" / "inference.json").read_text("utf-8"))
        self.metadata: dict[str, Any] = json.loads((self.folder / "configs" / "metadata.json").read_text("utf-8"))
        self._lock = threading.Lock()
        self._loaded: dict[Any, Predictor] = {}
        self._stamp: tuple[int, int] | None = None

    @property
    def labels(self) -> dict[str, int]:
        """Value of each structure, without the background."""
        return {name: value for name, value in self.config["labels"].items() if value != 0}

    @property
    def values(self) -> set[int]:
        """Values that a label map may have."""
        return {0, *self.config["labels"].values()}

    @property
    def is_trained(self) -> bool:
        """Whether there are weights."""
        return self.weights.is_file()

    @property
    def stamp(self) -> tuple[int, int] | None:
        """Something that changes with the weights; None without."""
        return stamp_of(self.weights)

    def segment(self, scan: str, device: str | None = None, options: Mapping[str, Any] | None = None) -> MetaTensor:
        """Labels of a scan, shape [1, *spatial], as `Predictor` makes them.

        Args:
            scan: a file, or the folder of a DICOM series.
            device: such as ``"cuda:0"``; None for the bundle's.
            options: values of inference.json for this time, such as ``{"overlap": 0.25}``; they come from clients.

        Raises:
            CheckpointError: there are no weights yet.
            ConfigError: an option is no plain value.
            InputError: the scan is refused.
        """
        others = {name: value for name, value in (options or {}).items() if value != self.config.get(name)}
        for name, value in others.items():
            if not is_plain(value):
                raise ConfigError(f"{name} must be a number, a plain text or a list of them")
        return self._predictor(device, others)(scan)

    def uncertainty(self, scan: str, device: str | None = None, passes: int = PASSES) -> float:
        """How undecided the network is about a scan, see `predictive_entropy`.

        Of a bundle with an ensemble the members are asked, else the network with dropout, `passes` times; norms and all
        else are as in use.

        Args:
            scan: see `segment`.
            device: alike.
            passes: with dropout; the members of an ensemble are all asked once.

        Raises:
            CheckpointError: there are no weights yet.
            InputError: the scan is refused.
        """
        asked = {"inferer::output": "probabilities", "postprocessing": {"_target_": "Compose", "transforms": []}}
        members = self.config.get("ensemble") or []
        given: list[npt.NDArray[np.floating]] = []
        if members:
            for member in members:
                predictor = self._predictor(device, {**asked, "ensemble": [member]})
                given.append(_array(predictor(scan)))
        else:
            rate = self.config["network_def"].get("dropout") or DROPOUT
            predictor = self._predictor(device, {**asked, "network_def::dropout": rate})
            draws = draw_dropout(predictor.network)
            given += [_array(predictor(scan)) for _ in range(passes if draws else 1)]
        return predictive_entropy(given, exclusive=self.config.get("regions") is None)

    def _predictor(self, device: str | None, options: Mapping[str, Any]) -> Predictor:
        if not self.is_trained:
            raise CheckpointError(
                "there is no model yet: label some scans, then train; until then label without a first guess."
            )
        with self._lock:
            if self.stamp != self._stamp:
                self._loaded, self._stamp = {}, self.stamp
            key = (device, json.dumps(options, sort_keys=True))
            if key not in self._loaded:
                while len(self._loaded) >= LOADED:
                    del self._loaded[next(iter(self._loaded))]
                self._loaded[key] = Predictor(self.folder, device=device, overrides=options)
            return self._loaded[key]


def _array(probabilities: MetaTensor) -> npt.NDArray[np.floating]:
    """[classes, *spatial], still where they lie: they may be mapped from a file."""
    return np.asarray(probabilities.as_tensor().numpy())
