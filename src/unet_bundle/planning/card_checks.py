"""What must hold of a task card, each with one line for where it does not."""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

from unet_bundle.errors import ConfigError
from unet_bundle.io.splits import LARGEST_SEED
from unet_bundle.planning.label_rules import BACKGROUND, check_ignore, check_instances, check_regions, is_int
from unet_bundle.planning.task_card import TaskCard
from unet_bundle.transforms import LabelValues

CODED_TERMS = ("category", "type", "type_modifier", "region", "region_modifier")
"""Coded terms a label may have: the segmented property category and type of a DICOM SEG and where it lies."""

TERM_KEYS = ("color", *CODED_TERMS)
CODE_KEYS = ("value", "scheme", "meaning")

_TEXTS = (
    "name", "title", "description", "authors", "copyright", "data_source", "data_license", "subject", "splits_file",
    "label_files", "version",
)  # fmt: skip


def check_card(card: TaskCard, where: str) -> None:
    """Refuse a card with a value that cannot be right.

    Args:
        card: with all its values.
        where: what messages call it.

    Raises:
        ConfigError: naming the value.
    """
    _check_types(card, where)
    _check_labels(card.labels, where)
    _check_terms(card, where)
    _check_pairs(card, where)
    _check_files(card, where)
    _check_label_values(card, where)
    check_instances(card.instances, card.border_weight, where, of_values=card.label_values is not None)
    if card.instances and (card.ignore is not None or card.regions is not None):
        raise ConfigError(f"{where}: instances go with neither ignore nor regions: leave either out")
    check_ignore(card.ignore, card.labels, _merged(card), where)
    check_regions(card.regions, card.labels, where)
    _check_tolerance(card, where)
    _check_rest(card, where)


def close_match(name: str, known: Iterable[str]) -> str:
    """`name`'s nearest spelling in `known` as a clause, or else the list of what is known."""
    known = list(known)
    matches = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {matches[0]!r}?" if matches else f"known are {', '.join(known)}"


def check_keys(given: Mapping[Any, Any], known: Iterable[str], where: str) -> None:
    """Refuse a key that is not known.

    Raises:
        ConfigError: naming it and the nearest one.
    """
    known = list(known)
    for key in given:
        if key not in known:
            raise ConfigError(f"{where} has the unknown key {key!r}: {close_match(str(key), known)}")


def _check_types(card: TaskCard, where: str) -> None:
    for key in _TEXTS:
        value = getattr(card, key)
        if value is None and key in ("subject", "splits_file", "label_files"):
            continue
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(f"{where}: {key} must be text, not {value!r}: put it in quotes")
    for key in ("terms", "overrides", "changelog", "labels"):
        value = getattr(card, key)
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise ConfigError(f"{where}: {key} must be 'name: value' lines with text for names, not {value!r}")
    if not isinstance(card.modality, list) or not all(isinstance(entry, str) for entry in card.modality):
        raise ConfigError(
            f"{where}: modality must be a list with one text a channel, such as [MRI], not {card.modality!r}"
        )


def _check_labels(labels: Mapping[str, int], where: str) -> None:
    for name, value in labels.items():
        if not name.strip() or not is_int(value):
            raise ConfigError(f"{where}: labels must map a name to a whole number, not {name!r} to {value!r}")
    if labels.get(BACKGROUND) != 0:
        raise ConfigError(f"{where}: labels must hold '{BACKGROUND}: 0', they are {dict(labels)}")
    if sorted(labels.values()) != list(range(len(labels))) or len(labels) < 2:
        raise ConfigError(
            f"{where}: label values must be 0, 1, 2, ... without a gap and at least one organ, "
            f"not {sorted(labels.values())}"
        )
    seen: dict[str, str] = {}
    for name in labels:
        other = seen.setdefault(name.lower(), name)
        if other != name:
            raise ConfigError(f"{where}: labels {other!r} and {name!r} differ by case only: name them apart")


def _check_terms(card: TaskCard, where: str) -> None:
    for name, terms in card.terms.items():
        if name not in card.labels:
            raise ConfigError(
                f"{where}: terms are given for {name!r}, which is no label: {close_match(name, card.labels)}"
            )
        if not isinstance(terms, dict):
            raise ConfigError(f"{where}: terms of {name!r} must be 'color:' and coded terms, not {terms!r}")
        check_keys(terms, TERM_KEYS, f"{where}, terms of {name!r}")
        color = terms.get("color")
        if color is not None and not (
            isinstance(color, list) and len(color) == 3 and all(is_int(part) and 0 <= part <= 255 for part in color)
        ):
            raise ConfigError(f"{where}: the color of {name!r} must be [red, green, blue] from 0 to 255, not {color!r}")
        for key in CODED_TERMS:
            if key in terms:
                _check_code(terms[key], f"{where}: {key} of {name!r}")


def _check_code(code: Any, where: str) -> None:
    if not isinstance(code, dict) or sorted(code) != sorted(CODE_KEYS):
        raise ConfigError(f"{where} must have exactly {', '.join(CODE_KEYS)}, not {code!r}")
    for key in CODE_KEYS:
        if not isinstance(code[key], str) or not code[key]:
            raise ConfigError(f"{where}: {key} must be text, not {code[key]!r}: put it in quotes")


def _check_pairs(card: TaskCard, where: str) -> None:
    if not isinstance(card.left_right_pairs, list):
        raise ConfigError(f"{where}: left_right_pairs must be a list of [left, right], not {card.left_right_pairs!r}")
    used: set[str] = set()
    for pair in card.left_right_pairs:
        if not (isinstance(pair, list) and len(pair) == 2 and pair[0] != pair[1]):
            raise ConfigError(f"{where}: left_right_pairs holds {pair!r}: give two label names, [left, right]")
        for name in pair:
            if name not in card.labels or name == BACKGROUND:
                clause = close_match(str(name), [label for label in card.labels if label != BACKGROUND])
                raise ConfigError(f"{where}: left_right_pairs names {name!r}, which is no label: {clause}")
            if name in used:
                raise ConfigError(f"{where}: left_right_pairs names {name!r} twice: a label has one counterpart")
            used.add(name)


def _check_files(card: TaskCard, where: str) -> None:
    if (card.image_files is None) != (card.label_files is None):
        raise ConfigError(f"{where}: image_files and label_files belong together: state both or neither")
    patterns = card.image_files if isinstance(card.image_files, list) else [card.image_files]
    if card.image_files is not None and not (patterns and all(isinstance(pattern, str) for pattern in patterns)):
        raise ConfigError(f"{where}: image_files must be a pattern or a list of patterns, not {card.image_files!r}")


def _check_label_values(card: TaskCard, where: str) -> None:
    if card.label_values is None:
        return
    for name in card.label_values:
        if name not in card.labels:
            clause = close_match(str(name), card.labels)
            raise ConfigError(f"{where}: label_values names {name!r}, which is no label: {clause}")
    for name in card.labels:
        if name != BACKGROUND and not card.label_values.get(name):
            raise ConfigError(f"{where}: label_values says nothing of {name!r}: list the values of every label")
    try:
        LabelValues(_merged(card) or [])
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _merged(card: TaskCard) -> list[list[int | str]] | None:
    """`TaskCard.class_values` without the value to be ignored."""
    return dataclasses.replace(card, ignore=None).class_values()


def _check_tolerance(card: TaskCard, where: str) -> None:
    stated = card.surface_tolerance
    by_name = stated if isinstance(stated, dict) else {"all labels": stated}
    for name, value in by_name.items():
        if isinstance(stated, dict) and name not in card.targets():
            kind = "label" if card.regions is None else "region"
            clause = close_match(str(name), card.targets())
            raise ConfigError(f"{where}: surface_tolerance names {name!r}, which is no {kind}: {clause}")
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ConfigError(
                f"{where}: surface_tolerance of {name} must be a length in mm, such as 1.0, not {value!r}"
            )


def _check_rest(card: TaskCard, where: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", card.name):
        raise ConfigError(f"{where}: name {card.name!r} may hold letters, digits, '_', '-' and '.' only")
    if not re.fullmatch(r"\d+\.\d+\.\d+", card.version):
        raise ConfigError(f"{where}: version {card.version!r} must be major.minor.patch, such as '0.1.0'")
    if card.version not in card.changelog or not all(isinstance(text, str) for text in card.changelog.values()):
        raise ConfigError(f"{where}: changelog must say in text what version {card.version!r} brought")
    if not is_int(card.folds) or card.folds < 2:
        raise ConfigError(f"{where}: folds must be a whole number of at least 2, not {card.folds!r}")
    if not is_int(card.seed) or not 0 <= card.seed <= LARGEST_SEED:
        raise ConfigError(f"{where}: seed must be a whole number from 0 to {LARGEST_SEED}, not {card.seed!r}")
