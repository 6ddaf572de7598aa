"""What training may do to scans: the axes that are mirrored, and elastic deformation."""

from collections.abc import Sequence

from unet_bundle.errors import ConfigError
from unet_bundle.planning.overrides import Choices
from unet_bundle.planning.task_card import TaskCard

ELASTIC_PROB = 0.0
"""Share of patches that are deformed elastically."""
WHY_ELASTIC_PROB = "off: beside rotation and zoom it did not help with 5, 10 or 20 cases (docs/augmentation.md)"

LEFT_RIGHT = 0
"""The axis from left to right in the plan's orientation."""


def mirror_axes(card: TaskCard, dims: int, slice_axis: int | None) -> tuple[list[int], str]:
    """Axes of the scans that are mirrored, and the reason."""
    axes = [axis for axis in range(dims) if axis != slice_axis]
    if not card.left_right_pairs:
        return axes, "the task card names no left/right pairs, so a mirrored organ is the same organ"
    left, right = card.left_right_pairs[0]
    reason = (
        f"not across left and right (axis {LEFT_RIGHT}): it would make {left!r} look like {right!r}; set under "
        "overrides all the same, it exchanges the labels, too"
    )
    return [axis for axis in axes if axis != LEFT_RIGHT], reason


def check_mirror_axes(choices: Choices, slice_axis: int | None) -> None:
    """Refuse axes in the task card that no slice has.

    Raises:
        ConfigError: slices are taken across one of them.
    """
    if slice_axis is not None and slice_axis in choices.overrides.get("mirror_axes", ()):
        raise ConfigError(
            f"mirror_axes under overrides in the task card holds axis {slice_axis}, across which slices are taken, so "
            "that no slice has it: leave it out"
        )


def control_spacing(patch_size: Sequence[int], spacing: Sequence[float]) -> float:
    """Distance of control points, in the unit of `spacing`: three along the shortest edge, as in the U-Net (2015)."""
    return round(min(edge * length for edge, length in zip(patch_size, spacing, strict=True) if edge > 1) / 2, 2)
