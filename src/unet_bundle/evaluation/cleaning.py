"""What cleaning label maps would do to their Dice, and which of it is worth doing.

The idea is nnU-Net's (Isensee et al. 2021, Nature Methods 18:203, "empirical parameters"): objects are dropped only if
that raises the Dice of cases that were kept back. There all but the largest object go, of all classes together and
then of single classes; here classes are always judged singly, and small objects and holes are tried as well. Each step
changes voxels of its class and background only, so that it can raise or lower the Dice of no other class.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from unet_bundle.evaluation.metrics import class_counts
from unet_bundle.evaluation.report import mean_of
from unet_bundle.transforms.components import objects_of

MARGIN = 0.001
"""By how much the mean Dice of a class must rise for a step to be taken: below, it is the choice of the cases."""

MOST_VOLUMES = 10
"""How many volumes are tried for the smallest object of a class."""


@dataclass(frozen=True)
class ClassObjects:
    """What is to be known of one class of one case to say what cleaning does to its Dice.

    Attributes:
        true: voxels of the class in the label.
        sizes: voxels of each object of the prediction, the largest first.
        hits: how many of them are of the class in the label, too.
        holes: voxels of its holes, and how many of them are of the class in the label.
    """

    true: int
    sizes: npt.NDArray[np.int64]
    hits: npt.NDArray[np.int64]
    holes: tuple[int, int] = (0, 0)

    def dice(self, keep_largest: bool = False, least: float = 0.0, fill_holes: bool = False) -> float | None:
        """Dice after cleaning, None where the class is then in neither label nor prediction.

        Args:
            keep_largest: whether the other objects go.
            least: objects of fewer voxels go.
            fill_holes: whether holes are filled; they are known for the case that no object goes.
        """
        kept = self.sizes >= max(least, 1)
        kept[1:] &= not keep_largest
        found, common = int(self.sizes[kept].sum()), int(self.hits[kept].sum())
        if fill_holes:
            found, common = found + self.holes[0], common + self.holes[1]
        return 2 * common / (found + self.true) if found + self.true else None


@dataclass(frozen=True)
class CaseObjects:
    """One case: the size of a voxel in ml (of a plane: mm2 / 1000), and its classes without the background."""

    voxel_ml: float
    classes: Sequence[ClassObjects]


@dataclass(frozen=True)
class Cleaning:
    """Values of inference.json: see `unet_bundle.transforms.CleanLabelsd`."""

    keep_largest: list[int] = field(default_factory=list)
    smallest_object_ml: dict[str, float] = field(default_factory=dict)
    fill_holes: list[int] = field(default_factory=list)

    def classes(self) -> set[int]:
        """Classes on which anything is done."""
        return {*self.keep_largest, *map(int, self.smallest_object_ml), *self.fill_holes}

    def without_filling(self) -> Cleaning:
        """The same, but holes stay."""
        return replace(self, fill_holes=[])

    def as_config(self) -> dict[str, Any]:
        """As inference.json has them: one 0.0 where no class has a smallest object."""
        volumes = self.smallest_object_ml or 0.0
        return {"keep_largest": self.keep_largest, "smallest_object_ml": volumes, "fill_holes": self.fill_holes}


def measure_objects(
    prediction: npt.NDArray[Any], label: npt.NDArray[Any], num_classes: int, voxel_ml: float
) -> tuple[CaseObjects, bool]:
    """Objects and holes of a label map that nothing has cleaned.

    Args:
        prediction: class indices, shape [*spatial], of an integer type.
        label: class indices, the same shape.
        num_classes: number of classes, background included.
        voxel_ml: size of a voxel in ml.

    Returns:
        The case, and whether any class encloses anything: else no cleaning makes a hole to be filled.
    """
    _, true, _ = class_counts(prediction, label, num_classes)
    classes, encloses = [], False
    boxes = ndimage.find_objects(prediction, max_label=num_classes - 1)
    for value, box in enumerate(boxes, start=1):
        if box is None:
            classes.append(ClassObjects(true[value], *np.zeros((2, 0), np.int64)))
            continue
        mask, hit = prediction[box] == value, label[box] == value
        objects, sizes = objects_of(mask)
        hits = np.bincount(objects[hit], minlength=len(sizes))
        order = 1 + np.argsort(-sizes[1:], kind="stable")
        enclosed = ndimage.binary_fill_holes(mask) & ~mask
        holes = enclosed & (prediction[box] == 0)
        encloses = encloses or bool(enclosed.any())
        counts = int(np.count_nonzero(holes)), int(np.count_nonzero(holes & hit))
        classes.append(ClassObjects(true[value], sizes[order], hits[order], counts))
    return CaseObjects(voxel_ml, classes), encloses


def choose_cleaning(cases: Sequence[CaseObjects], names: Sequence[str]) -> tuple[Cleaning, dict[str, Any]]:
    """Try each step on each class, by itself and on label maps that nothing has cleaned.

    A step is taken if the mean Dice of the class rises by more than `MARGIN`. Of dropping all but the largest object
    and dropping small ones at most one is taken, by the higher mean Dice; where both are equal, the former.

    Args:
        cases: at least one.
        names: of the classes, without the background.

    Returns:
        What is taken; and by class the number of cases that count and the mean Dice as it is and after each step.
    """
    chosen, figures = Cleaning(), {}
    for value, name in enumerate(names, start=1):
        rows = [(case.classes[value - 1], case.voxel_ml) for case in cases]
        before = [row.dice() for row, _ in rows]
        largest = mean_of([row.dice(keep_largest=True) for row, _ in rows])
        filled = mean_of([row.dice(fill_holes=True) for row, _ in rows])
        volumes = {ml: mean_of([row.dice(least=ml / voxel) for row, voxel in rows]) for ml in candidate_volumes(rows)}
        best = max(volumes, key=lambda ml: (-1.0 if volumes[ml] is None else volumes[ml], -ml), default=None)
        small = None if best is None else volumes[best]
        mean = mean_of(before)
        if rises(mean, largest) and (small is None or (largest or 0) >= small):
            chosen.keep_largest.append(value)
        elif best is not None and rises(mean, small):
            chosen.smallest_object_ml[str(value)] = best
        if rises(mean, filled):
            chosen.fill_holes.append(value)
        figures[name] = {
            "cases": sum(dice is not None for dice in before),
            "dice": mean,
            "keep_largest": largest,
            "smallest_object_ml": [{"ml": ml, "dice": dice} for ml, dice in volumes.items()],
            "fill_holes": filled,
        }
    return chosen, figures


def candidate_volumes(rows: Sequence[tuple[ClassObjects, float]]) -> list[float]:
    """Volumes in ml that part small objects from large ones: amid the widest gaps, by ratio, of their volumes.

    Only gaps above an object that is mostly wrong count: dropping any other lowers the Dice of its case.

    Args:
        rows: a class in each case, and the size of its voxels in ml.
    """
    found = np.unique(np.concatenate([row.sizes * voxel for row, voxel in rows])).tolist()
    wrong = {volume for row, voxel in rows for volume in (row.sizes[2 * row.hits < row.sizes] * voxel).tolist()}
    gaps = [gap for gap in itertools.pairwise(found) if gap[0] in wrong]
    gaps.sort(key=lambda gap: gap[1] / gap[0], reverse=True)
    return sorted(_between(*gap) for gap in gaps[:MOST_VOLUMES])


def rises(before: float | None, after: float | None) -> bool:
    """Whether a mean Dice is better by more than `MARGIN`."""
    return before is not None and after is not None and after - before > MARGIN


def is_better(before: Sequence[float | None], after: Sequence[float | None], cleaned: set[int]) -> bool:
    """Whether all steps together do what each was taken for, and the mean Dice of no class falls.

    Args:
        before: mean Dice of each class without the background.
        after: the same with all steps.
        cleaned: classes on which anything is done.
    """
    pairs = list(zip(before, after, strict=True))
    falls = any(old is not None and (new is None or new < old) for old, new in pairs)
    return not falls and all(rises(*pairs[value - 1]) for value in cleaned)


def dice_without_filling(case: CaseObjects, chosen: Cleaning) -> list[float | None]:
    """Dice of each class of a case after its objects were dropped; exact, for that touches no other class."""
    return [
        row.dice(
            keep_largest=value in chosen.keep_largest,
            least=chosen.smallest_object_ml.get(str(value), 0.0) / case.voxel_ml,
        )
        for value, row in enumerate(case.classes, start=1)
    ]


def describe(chosen: Cleaning, figures: Mapping[str, Any], together: Mapping[str, float | None], cases: int) -> str:
    """One line: what was chosen and what it does."""
    if not chosen.classes():
        return f"No cleaning raises the mean Dice of a class by more than {MARGIN:g} on {cases} cases: none is chosen."
    parts = []
    for value, (name, figure) in enumerate(figures.items(), start=1):
        steps = ["keep_largest"] if value in chosen.keep_largest else []
        if str(value) in chosen.smallest_object_ml:
            steps.append(f"smallest_object_ml {chosen.smallest_object_ml[str(value)]:g}")
        steps += ["fill_holes"] if value in chosen.fill_holes else []
        if steps:
            parts.append(f"{name} {' and '.join(steps)} (Dice {figure['dice']:.4f} to {together[name]:.4f})")
    return f"Cleaning chosen on {cases} cases: {', '.join(parts)}."


def _between(low: float, high: float) -> float:
    """Their geometric mean, with few digits where these still lie between."""
    middle = float(np.sqrt(low * high))
    short = float(f"{middle:.2g}")
    return short if low < short < high else middle
