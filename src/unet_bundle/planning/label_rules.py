"""What a task card states of its labels beyond their names: values to be ignored, regions that overlap, objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from unet_bundle.errors import ConfigError
from unet_bundle.transforms import BorderWeightd, LabelValues, painted_values
from unet_bundle.transforms.labels import LARGEST_VALUE

BACKGROUND = "background"
IGNORE = "ignore"
Values = Sequence[Sequence[int | str]]


def is_int(value: Any) -> bool:
    """Whether it is a whole number, which True is not."""
    return isinstance(value, int) and not isinstance(value, bool)


def check_ignore(ignore: Any, labels: Mapping[str, int], label_values: Values | None, where: str) -> None:
    """Refuse a value to be ignored that is none, or that a label has as well.

    Args:
        ignore: as the card states it; None if it does not.
        labels: name of each label to its class.
        label_values: for each class the values of label files, if they are stated.
        where: what the message begins with.

    Raises:
        ConfigError: see above.
    """
    for name, value in labels.items():
        if name.lower() == IGNORE:
            raise ConfigError(
                f"{where}: labels has {name!r}, which would be learnt as an organ: state 'ignore: {value}' as a key of "
                "its own"
            )
    if ignore is None:
        return
    if not is_int(ignore) or not 0 < ignore <= LARGEST_VALUE:
        raise ConfigError(f"{where}: ignore must be a value of the label files, a whole number above 0, not {ignore!r}")
    values = [[value] for value in sorted(labels.values())] if label_values is None else label_values
    LabelValues(values)  # has its own message
    try:
        LabelValues([*values, [ignore]])
    except ConfigError:
        raise ConfigError(
            f"{where}: ignore is {ignore}, which is the value of a label as well: give it the value that label files "
            "have where nobody labelled"
        ) from None


def check_regions(regions: Any, labels: Mapping[str, int], where: str) -> None:
    """Refuse regions of unknown classes, and such that cannot be painted into a label map.

    Args:
        regions: as the card states them; None if it does not.
        labels: name of each label to its class.
        where: what the message begins with.

    Raises:
        ConfigError: see above.
    """
    if regions is None:
        return
    if not isinstance(regions, dict) or not regions:
        raise ConfigError(
            f"{where}: regions must be 'name: [values]' lines in the order in which they are painted, not {regions!r}"
        )
    known = {value: name for name, value in labels.items() if value != 0}
    for name, values in regions.items():
        _check_region(name, values, known, where)
    names = [name.lower() for name in regions]
    if len(set(names)) < len(names):
        raise ConfigError(f"{where}: regions {list(regions)} differ by case only: name them apart")
    inside = {value for values in regions.values() for value in values}
    outside = [name for value, name in sorted(known.items()) if value not in inside]
    if outside:
        raise ConfigError(
            f"{where}: label {outside[0]!r} is in no region, so that it would be learnt as background: add its value"
        )
    try:
        painted_values(regions)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def check_instances(instances: Any, border_weight: Mapping[str, Any] | None, where: str, *, of_values: bool) -> None:
    """Refuse numbered objects whose numbers mean no class, and weights of borders that cannot be.

    Args:
        instances: as the card states it.
        border_weight: all arguments of `BorderWeightd`; None if the card states none.
        where: what the message begins with.
        of_values: whether the card says which values of label files are which class.

    Raises:
        ConfigError: see above.
    """
    if not isinstance(instances, bool):
        raise ConfigError(f"{where}: instances must be true or false, not {instances!r}")
    if instances and not of_values:
        raise ConfigError(
            f"{where}: instances needs label_values, which say what numbers the objects of each label have, such as "
            "{nucleus: 1-65535}"
        )
    if border_weight is None:
        return
    if not instances:
        raise ConfigError(
            f"{where}: border_weight is for label files that number objects: state 'instances: true', too"
        )
    numbers = [border_weight["w0"], border_weight["sigma"]]
    try:
        if any(isinstance(each, bool) for each in numbers) or not isinstance(border_weight["balance"], bool):
            raise TypeError  # noqa: TRY301 - as BorderWeightd does for text
        BorderWeightd("label", **border_weight)
    except (ConfigError, TypeError):
        raise ConfigError(
            f"{where}: border_weight must have a w0 of at least 0, a sigma above 0 and true or false for balance, not "
            f"{border_weight}"
        ) from None


def _check_region(name: Any, values: Any, known: Mapping[int, str], where: str) -> None:
    if not isinstance(name, str) or not name.strip() or name.lower() == BACKGROUND:
        raise ConfigError(f"{where}: regions has the name {name!r}: give text other than 'background'")
    if not isinstance(values, list) or not values or not all(map(is_int, values)):
        raise ConfigError(f"{where}: region {name!r} must be a list of label values, such as [1, 2], not {values!r}")
    for value in values:
        if value not in known:
            raise ConfigError(
                f"{where}: region {name!r} holds {value}, which is the value of no label but the background's: "
                f"labels have {sorted(known)}"
            )
    if len(set(values)) < len(values):
        raise ConfigError(f"{where}: region {name!r} holds a value twice ({values}): give each once")
    same = [value for value, label in known.items() if label.lower() == name.lower()]
    if same and values != same:
        raise ConfigError(
            f"{where}: region {name!r} has the name of the label of value {same[0]} but holds {values}: rename it"
        )
