"""Volumes of what was segmented, one row a scan and class in ``volumes.csv``, on the scans' own grids."""

from __future__ import annotations

import csv
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor
from monai.utils import string_list_all_gather

from unet_bundle.errors import ConfigError
from unet_bundle.evaluation.units import ALL, Units, units_of
from unet_bundle.geometry import as_4x4
from unet_bundle.io import case_name
from unet_bundle.io.files import replacing
from unet_bundle.training.distributed import is_distributed, is_main_process
from unet_bundle.transforms import Regions

logger = logging.getLogger(__name__)

Row = tuple[str, str, str, str]

FILE = "volumes.csv"
VOXELS_AT_ONCE = 2**20
"""That are counted: counting copies them to 64 bits."""


class SaveVolumes:
    """Writes ``volumes.csv`` beside the label maps: a row a scan and class with its volume and its number of voxels.

    The size of a voxel is that of the scan's own grid. Planes have an area in mm² instead, pictures (PNG, TIFF) one in
    pixels. The file is complete after every scan; rows of other scans that stand in it already stay, those of a
    scan that is segmented again are replaced.

    Args:
        labels: name of each class and its value; the background is left out.
        output_dir: where the file goes.
        regions: name of each region to the classes it is made of: these are measured, of a label map or of a channel
            for each; None: the classes are.

    Raises:
        ConfigError: when the run starts, if a ``volumes.csv`` is there that is none of ours, or when a scan is
            measured in another unit than those in it.
    """

    def __init__(self, labels: Mapping[str, int], output_dir: str, regions: Regions | None = None) -> None:
        self.labels = {name: value for name, value in sorted(labels.items(), key=lambda item: item[1]) if value != 0}
        self.regions = regions
        self.path = Path(output_dir) / FILE
        self._units: Units | None = None
        self._rows: dict[str, list[Row]] = {}

    def attach(self, engine: Engine) -> None:
        """Measure and write after each iteration of `engine`; several processes write together after its epoch."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._measure)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._gather)

    def _start(self, _engine: Engine) -> None:
        self._units, self._rows = self._before()

    def _measure(self, engine: Engine) -> None:
        output: Any = engine.state.output
        for item in output:
            prediction = item["pred"]
            name = case_name(prediction.meta["filename_or_obj"])
            units = units_of(prediction.meta["filename_or_obj"], prediction.ndim - 1)
            if self._units is not None and self._units != units:
                raise ConfigError(
                    f"{FILE} in the output folder has {_head(self._units)[2]}, but {name} needs {_head(units)[2]}: give"
                    " another output folder."
                )
            self._units = units
            self._rows[name] = [(name, *row) for row in volumes(prediction, self.labels, self.regions)]
        if not is_distributed():
            self._write()

    def _gather(self, _engine: Engine) -> None:
        if not is_distributed():
            return
        flat = ["\t".join(row) for rows in self._rows.values() for row in rows]
        # With fewer cases than processes, some come more than once.
        lines = dict.fromkeys(string_list_all_gather(flat, delimiter="\n"))
        self._rows = _by_case([line.split("\t") for line in lines])
        if is_main_process():
            self._write()

    def _write(self) -> None:
        if self._units is None:
            return
        rows = [row for name in sorted(self._rows) for row in self._rows[name]]
        with replacing(self.path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([_head(self._units), *rows])

    def _before(self) -> tuple[Units | None, dict[str, list[Row]]]:
        """Units and rows of the file that is there."""
        if not self.path.is_file():
            return None, {}
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:
                first, *rows = list(csv.reader(file)) or [[]]
        except (OSError, ValueError, csv.Error):
            first, rows = [], []
        units = next((units for units in ALL if list(_head(units)) == first), None)
        if units is None or any(len(row) != len(first) for row in rows):
            raise ConfigError(f"{FILE} in the output folder is not one that was written here: move it away.")
        return units, _by_case(rows)


def without_volumes(folder: Path, names: Iterable[str]) -> int:
    """How many of these scans the ``volumes.csv`` of a folder has no row of; none if there is no such file."""
    try:
        with (folder / FILE).open(newline="", encoding="utf-8-sig") as file:
            measured = {row[0] for row in csv.reader(file) if row}
    except (OSError, ValueError, csv.Error):
        return 0
    return len({*names} - measured)


def volumes(
    prediction: MetaTensor, labels: Mapping[str, int], regions: Regions | None = None
) -> list[tuple[str, str, str]]:
    """Name, size and number of voxels of each class of a label map, as `SaveVolumes` writes them.

    Args:
        prediction: class indices, shape [1, *spatial], or 0 and 1 for each region, on the scan's grid.
        labels: name and value of each class wanted.
        regions: name of each region to its classes, if these are wanted.

    Returns:
        One entry a class; its size in ml, for planes in mm², with six decimals.
    """
    affine = as_4x4(prediction.affine.detach().cpu().numpy())
    voxel = float(abs(np.linalg.det(affine[:3, :3]))) / (1000 if prediction.ndim > 3 else 1)
    if regions is not None and len(prediction) > 1:
        found = dict(zip(regions, (int(channel.count_nonzero()) for channel in prediction), strict=True))
    else:
        counts = np.zeros(max(labels.values(), default=0) + 1, np.int64)
        plain = prediction[0].detach().as_subclass(torch.Tensor)
        for part in plain.split(max(VOXELS_AT_ONCE // plain[0].numel(), 1)):
            counts += np.bincount(part.cpu().numpy().astype(np.int64).ravel(), minlength=len(counts))[: len(counts)]
        parts = {name: [value] for name, value in labels.items()} if regions is None else regions
        found = {name: int(sum(counts[value] for value in values)) for name, values in parts.items()}
    return [(name, f"{count * voxel:.6f}", str(count)) for name, count in found.items()]


def _head(units: Units) -> Row:
    return "case", "label", f"{units.quantity}_{units.size}", "voxels"


def _by_case(rows: Sequence[Sequence[str]]) -> dict[str, list[Row]]:
    cases: dict[str, list[Row]] = {}
    for case, label, size, voxels in rows:
        cases.setdefault(case, []).append((case, label, size, voxels))
    return cases
