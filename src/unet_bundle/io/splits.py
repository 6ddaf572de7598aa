"""Which cases train and which validate: folds that never tear a subject apart."""

import ast
import json
import logging
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io.layouts import case_name

logger = logging.getLogger(__name__)

LARGEST_SEED = 2**32 - 1
"""That NumPy takes."""

CaseT = TypeVar("CaseT", bound=Mapping[str, Any])

_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


def subject_of(case_name: str, subject_key: str | None) -> str:
    """The subject a case belongs to, read from the case's name.

    Args:
        case_name: name of the case, e.g. ``"hippocampus_003"``.
        subject_key: None if each case is a subject of its own; an integer expression in ``number``, the last
            integer of the name, e.g. ``"(number - 1) // 2"``; or a regular expression with one group,
            e.g. ``"(sub-[0-9]+)"``.

    Raises:
        ConfigError: if the key is neither.
        InputError: if the name has no number, or does not match the expression.

    Example:
        >>> subject_of("hippocampus_003", "(number - 1) // 2")
        '1'
        >>> subject_of("sub-07_ses-2", "(sub-[0-9]+)")
        'sub-07'
    """
    if subject_key is None:
        return case_name
    expression = _number_expression(subject_key)
    if expression is None:
        return _matched_group(case_name, subject_key)
    numbers = re.findall("[0-9]+", case_name)
    if not numbers:
        raise InputError(f"case {case_name} has no number for subject key {subject_key!r}: rename it or change the key")
    try:
        return str(_evaluate(expression, int(numbers[-1])))
    except ZeroDivisionError:
        raise ConfigError(f"subject key {subject_key!r} divides by zero for case {case_name}: change the key") from None


def split_cases(
    cases: Sequence[CaseT],
    fold: int,
    folds: int = 5,
    subject_key: str | None = None,
    seed: int = 0,
    splits_file: str | Path | None = None,
) -> tuple[list[CaseT], list[CaseT]]:
    """Split cases into training and validation, all cases of a subject on one side.

    The sorted subjects are shuffled by ``numpy.random.RandomState(seed)`` (the same on every platform) and
    cut into `folds` parts of nearly equal size; part `fold` validates.

    Args:
        cases: dictionaries with an ``"image"`` path, from which the case's name is taken.
        fold: which part validates, 0 to ``folds - 1``.
        folds: number of parts.
        subject_key: see `subject_of`.
        seed: of the shuffle.
        splits_file: JSON in the form of nnU-Net's ``splits_final.json``, a list with
            ``{"train": [names], "val": [names]}`` for each fold. It replaces the shuffle, and cases that it
            leaves out are used for neither.

    Returns:
        Training cases and validation cases, each in the order given.

    Raises:
        ConfigError: if `fold` or `folds` is out of range, or there are fewer subjects than folds.
        InputError: if there are two cases of one name, or the splits file is broken: see `read_splits`.
    """
    by_name = {_name_of(case): case for case in cases}
    if len(by_name) < len(cases):
        raise InputError("two cases have the same name, so they cannot be told apart in a split: rename one")
    if splits_file is not None:
        training, validation = _split_of_file(Path(splits_file), fold, by_name.keys(), subject_key)
    else:
        subjects = {name: subject_of(name, subject_key) for name in by_name}
        validating = _subjects_of_fold(set(subjects.values()), fold, folds, seed)
        validation = frozenset(name for name, subject in subjects.items() if subject in validating)
        training = by_name.keys() - validation
    return (
        [case for name, case in by_name.items() if name in training],
        [case for name, case in by_name.items() if name in validation],
    )


def select_cases(
    cases: Sequence[CaseT],
    part: Literal["train", "validation", "all"],
    fold: int = 0,
    folds: int = 5,
    subject_key: str | None = None,
    seed: int = 0,
    splits_file: str | Path | None = None,
) -> list[CaseT]:
    """One side of `split_cases`, or all cases: the form that configs use.

    Args:
        cases: as for `split_cases`.
        part: ``"train"``, ``"validation"`` or ``"all"``.
        fold: as for `split_cases`, as the rest.
        folds: number of parts.
        subject_key: see `subject_of`.
        seed: of the shuffle.
        splits_file: replaces the shuffle.

    Raises:
        ConfigError: if `part` is unknown, or as `split_cases`.
        InputError: as `split_cases`.
    """
    if part == "all":
        return list(cases)
    if part not in ("train", "validation"):
        raise ConfigError(f"part is {part!r}: it must be 'train', 'validation' or 'all'")
    training, validation = split_cases(cases, fold, folds, subject_key, seed, splits_file)
    return training if part == "train" else validation


def _name_of(case: Mapping[str, Any]) -> str:
    return case_name(case["image"])


def _subjects_of_fold(subjects: set[str], fold: int, folds: int, seed: int) -> set[str]:
    if not _is_integer(folds) or folds < 2:
        raise ConfigError(f"folds is {folds!r}: it must be a whole number of at least 2")
    _check_fold(fold, folds)
    if not _is_integer(seed) or not 0 <= seed <= LARGEST_SEED:
        raise ConfigError(f"split_seed is {seed!r}: it must be a whole number from 0 to {LARGEST_SEED}")
    if len(subjects) < folds:
        remedy = (
            f"set 'folds: {len(subjects)}' or less in the task card and plan again"
            if len(subjects) > 1
            else "add scans of other subjects"
        )
        raise ConfigError(f"the data set has too few subjects ({len(subjects)}) for {folds} folds: {remedy}")
    ordered = sorted(subjects)
    shuffled = np.random.RandomState(seed).permutation(len(ordered))  # frozen by NumPy: the same for ever
    return {ordered[index] for index in np.array_split(shuffled, folds)[fold]}


def _check_fold(fold: int, folds: int) -> None:
    if not _is_integer(fold) or not 0 <= fold < folds:
        raise ConfigError(f"fold is {fold!r}: it must be a whole number from 0 to {folds - 1}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def read_splits(
    path: Path, known: AbstractSet[str] | None = None, subject_key: str | None = None
) -> list[dict[str, list[str]]]:
    """Read a splits file and check all its folds.

    Args:
        path: JSON in the form of nnU-Net's ``splits_final.json``; see `split_cases`.
        known: names of the cases of the data set; None: not known here.
        subject_key: see `subject_of`.

    Returns:
        ``{"train": [names], "val": [names]}`` of each fold, nothing else.

    Raises:
        InputError: the file cannot be read, is in another form, names unknown cases, or has a case or a subject on both
            sides of a fold.
    """
    try:
        splits = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InputError(f"splits file {path.name} cannot be read ({error.strerror}): correct splits_file") from None
    except ValueError as error:
        raise InputError(f"the splits file {path.name} is not valid JSON ({error}): correct it") from error
    if not isinstance(splits, list) or not splits or not all(_is_split(split) for split in splits):
        raise InputError(f'splits file {path.name} must be a list of {{"train": [names], "val": [names]}}, one a fold')
    for fold, split in enumerate(splits):
        _check_split(split, fold, path.name, known, subject_key)
    return [{side: split[side] for side in ("train", "val")} for split in splits]


def _check_split(
    split: Mapping[str, list[str]], fold: int, name: str, known: AbstractSet[str] | None, subject_key: str | None
) -> None:
    training, validation = frozenset(split["train"]), frozenset(split["val"])
    unknown = sorted((training | validation) - known) if known is not None else []
    if unknown:
        raise InputError(f"{name} names {unknown[0]}, which is not in the data set: correct the splits file")
    if training & validation:
        raise InputError(
            f"{name} has {min(training & validation)} in training and in validation of fold {fold}: correct it"
        )
    torn = {subject_of(case, subject_key) for case in training} & {subject_of(case, subject_key) for case in validation}
    if torn:
        raise InputError(
            f"{name} has subject {min(torn)} both in training and in validation of fold {fold}: "
            "keep a subject's cases on one side"
        )


def _split_of_file(
    path: Path, fold: int, known: AbstractSet[str], subject_key: str | None
) -> tuple[AbstractSet[str], AbstractSet[str]]:
    splits = read_splits(path, known, subject_key)
    _check_fold(fold, len(splits))
    training, validation = frozenset(splits[fold]["train"]), frozenset(splits[fold]["val"])
    left_out = len(known) - len(training) - len(validation)
    if left_out:
        logger.warning("%s leaves out %d of %d cases in fold %d", path.name, left_out, len(known), fold)
    return training, validation


def _is_split(split: object) -> bool:
    return isinstance(split, dict) and all(
        isinstance(split.get(side), list) and all(isinstance(name, str) for name in split[side])
        for side in ("train", "val")
    )


def _number_expression(subject_key: str) -> ast.expr | None:
    """The parsed key if it is an integer expression in ``number`` and nothing else."""
    try:
        body = ast.parse(subject_key.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        return None
    uses_number = any(isinstance(node, ast.Name) for node in ast.walk(body))
    return body if uses_number and _is_arithmetic(body) else None


def _is_arithmetic(node: ast.expr) -> bool:
    match node:
        case ast.Constant(value=value):
            return _is_integer(value)
        case ast.Name(id=name):
            return name == "number"
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return _is_arithmetic(operand)
        case ast.BinOp(left=left, op=op, right=right):
            return type(op) in _OPERATORS and _is_arithmetic(left) and _is_arithmetic(right)
    return False


def _evaluate(node: ast.expr, number: int) -> int:
    match node:
        case ast.Constant(value=int(value)):
            return value
        case ast.UnaryOp(operand=operand):
            return -_evaluate(operand, number)
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_evaluate(left, number), _evaluate(right, number))
    return number


def _matched_group(case_name: str, subject_key: str) -> str:
    try:
        pattern = re.compile(subject_key)
    except re.error:
        pattern = None
    if pattern is None or pattern.groups != 1:
        raise ConfigError(
            f"subject key {subject_key!r} is neither an expression in 'number' (with + - * // %) "
            "nor a regular expression with one group: correct it"
        )
    match = pattern.search(case_name)
    if match is None or match.group(1) is None:
        raise InputError(f"case {case_name} does not match subject key {subject_key!r}: rename it or change the key")
    return match.group(1)
