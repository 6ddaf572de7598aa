"""Random changes of intensity, drawn now and applied here or later, on another device."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from monai.transforms import Compose, Randomizable, Transform
from monai.utils import MAX_SEED

SEED = "intensity_seed"
"""Key under which a deferred seed travels with its item."""


class RandIntensityd(Randomizable, Transform):
    """A chain of random transforms, all of whose randomness is one seed: the same seed gives the same picture.

    Args:
        transforms: dictionary transforms, such as MONAI's ``RandGaussianNoised``.
        deferred: only draw the seed, and put it under ``SEED`` for `finish` to apply it elsewhere, on a GPU.
    """

    def __init__(self, transforms: Sequence[Callable[..., Any]], deferred: bool = False) -> None:
        self.chain = Compose(list(transforms))
        self.deferred = deferred

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draw a seed, and transform unless that is deferred."""
        item = {**data, SEED: int(self.R.randint(MAX_SEED, dtype="uint32"))}
        return item if self.deferred else self.finish(item)

    def finish(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Apply the seed that stands in the item."""
        item = dict(data)
        self.chain.set_random_state(seed=item.pop(SEED))
        transformed: dict[Hashable, Any] = self.chain(item)
        return transformed
