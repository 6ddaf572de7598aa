"""Checking a data set before it is planned for: every file is read, every finding is one line."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.geometry import format_shape, format_spacing
from unet_bundle.io import Survey, case_name, split_cases, subject_of, survey_cases, wanted_channels
from unet_bundle.io.layouts import no_cases
from unet_bundle.io.splits import read_splits
from unet_bundle.planning.card import load_card
from unet_bundle.planning.check_case import CaseReading, read_case
from unet_bundle.planning.findings import SEVERITIES, Finding, Report
from unet_bundle.planning.task_card import TaskCard
from unet_bundle.transforms import LabelValues

MAX_WORKERS = 4
"""More threads hold more whole scans in memory at a time than they gain in speed."""

SPACING_FACTOR = 4.0
"""A scan whose voxels are this much larger or smaller than the median's along an axis does not look like the others."""

USUAL_SPACING_MM = (0.02, 20.0)
"""Voxel edges of volumes outside this range are rather a wrong unit than a scanner's."""

MIN_CASES_FOR_MEDIAN = 3

_BIDS_SUBJECT = re.compile(r"(sub-[A-Za-z0-9]+)_")


def check_dataset(
    dataset_dir: str | Path | None, card: TaskCard | None = None, workers: int | None = None, progress: bool = True
) -> Report:
    """Read every labelled case and say what would spoil training, what might, and what was accepted.

    It costs one reading of the data. Files are named by their path within the data set.

    Args:
        dataset_dir: folder of the data set.
        card: states labels, modality and folds; None: only what can be seen without is checked.
        workers: threads that read in parallel; None: one per processor, at most `MAX_WORKERS`.
        progress: show a progress bar on stderr.

    Raises:
        ConfigError: if the card's patterns or its subject key are wrong.
        InputError: if the folder is missing or in no known layout (see `unet_bundle.io.survey_cases`).
    """
    image_files, label_files = (None, None) if card is None else (card.image_files, card.label_files)
    survey = survey_cases(dataset_dir, image_files, label_files)
    findings = [
        Finding("error" if problem.fatal else "warning", problem.kind, problem.file, problem.message)
        for problem in survey.problems
    ]
    if not survey.cases:
        findings.append(Finding("error", "no cases", "", str(no_cases(survey))))
    readings = _read_all(survey, card, workers, progress)
    channels = _usual([reading.channels for reading in readings])
    for reading in readings:
        findings.extend(reading.findings)
    findings.extend(_wrong_channels(readings, channels, card))
    findings.extend(_wrong_dimensions(readings))
    findings.extend(_odd_spacings(readings))
    findings.extend(_duplicates(readings, card))
    findings.extend(_wrong_folds(survey, card))
    findings.extend(_missing_labels(readings, card))
    findings.sort(key=lambda finding: (SEVERITIES.index(finding.severity), finding.file, finding.kind, finding.message))
    return Report(survey.folder.resolve().name, survey.layout, len(survey.cases), channels, tuple(findings))


def card_to_check(path: Path | None, description: Mapping[str, Any]) -> TaskCard | None:
    """The task card, or what the data set says of itself; None if neither states labels and modality.

    Args:
        path: of the task card, if there is one.
        description: as `unet_bundle.io.read_description` gives it.

    Raises:
        ConfigError: as `load_card`.
        InputError: as `load_card`.
    """
    if path is None and not (description.get("labels") and description.get("modality")):
        return None
    return load_card(path, description)


def _read_all(survey: Survey, card: TaskCard | None, workers: int | None, progress: bool) -> list[CaseReading]:
    known = None if card is None else frozenset(card.labels.values())
    count = workers or min(os.cpu_count() or 1, MAX_WORKERS)
    channels = None if card is None else wanted_channels(card.modality)
    values = None if card is None else card.class_values()
    merged = None if values is None else LabelValues(values)
    ignore = None if card is None else card.ignore
    with ThreadPoolExecutor(count) as pool:
        readings = pool.map(lambda case: read_case(case, survey, known, channels, merged, ignore), survey.cases)
        bar = tqdm(readings, total=len(survey.cases), desc="checking", unit="case", disable=not progress)
        return list(bar)


def _usual(counts: Sequence[int | None]) -> int | None:
    """The value that most have, the least of them if several are as frequent."""
    known = Counter(count for count in counts if count is not None)
    return min(known, key=lambda count: (-known[count], count)) if known else None


def _wrong_channels(readings: Sequence[CaseReading], usual: int | None, card: TaskCard | None) -> Iterator[Finding]:
    for reading in readings:
        if reading.channels is None or usual is None:
            continue
        wanted = usual if card is None else len(card.modality)
        if reading.channels == wanted:
            continue
        whose = "most cases have" if card is None else f"the modality {card.modality} states"
        shape = format_shape([*(reading.shape or ()), reading.channels])
        held = f"is 4D ({shape}), so it has {reading.channels} channels" if reading.is_4d else f"has {reading.channels}"
        unit = "" if reading.is_4d else " channel" if reading.channels == 1 else " channels"
        text = f"{held}{unit}, but {whose} {wanted}: correct the image or the card"
        yield Finding("error", "channel count", reading.image_file, text)


def _wrong_dimensions(readings: Sequence[CaseReading]) -> Iterator[Finding]:
    usual = _usual([None if reading.shape is None else len(reading.shape) for reading in readings])
    for reading in readings:
        if reading.shape is not None and len(reading.shape) != usual:
            shape = format_shape(reading.shape)
            text = (
                f"has {len(reading.shape)} axes in space ({shape}), most cases have {usual}: keep them in two data sets"
            )
            yield Finding("error", "dimensions", reading.image_file, text)


def _odd_spacings(readings: Sequence[CaseReading]) -> Iterator[Finding]:
    measured = [(reading, reading.spacing) for reading in readings if reading.spacing and len(reading.spacing) == 3]
    if not measured:
        return
    median = np.median([spacing for _, spacing in measured], axis=0)
    low, high = USUAL_SPACING_MM
    for reading, spacing in measured:
        ratio = np.asarray(spacing) / median
        text = f"has voxels of {format_spacing(spacing)} mm"
        if min(spacing) < low or max(spacing) > high:
            text += f", outside the usual {low:g} to {high:g} mm: check the unit"
        elif len(measured) >= MIN_CASES_FOR_MEDIAN and max(ratio.max(), 1 / ratio.min()) > SPACING_FACTOR:
            text += (
                f", the median case {format_spacing(median.tolist())} mm (right, anterior, superior): check its header"
            )
        else:
            continue
        yield Finding("warning", "suspicious spacing", reading.image_file, text)


def _duplicates(readings: Sequence[CaseReading], card: TaskCard | None) -> Iterator[Finding]:
    """Images with the same voxels in two cases: the one may be trained on, the other validated on."""
    owners: dict[str, CaseReading] = {}
    for reading in readings:
        originals = {id(owners[digest]): owners[digest] for digest in reading.digests if digest in owners}
        for original in originals.values():
            apart = _subject(reading.name, card) != _subject(original.name, card)
            text = f"holds the same voxels as {original.image_file}: take one of the two cases away"
            yield Finding("error" if apart else "warning", "duplicate", reading.image_file, text)
        for digest in reading.digests:
            if digest is not None:
                owners.setdefault(digest, reading)


def _subject(name: str, card: TaskCard | None) -> str:
    try:
        return subject_of(name, None if card is None else card.subject)
    except InputError:  # has its own finding
        return name


def _wrong_folds(survey: Survey, card: TaskCard | None) -> Iterator[Finding]:
    """Splits that cannot be made, or that train and validate on one subject."""
    if not survey.cases:
        return
    names = [case_name(case["image"]) for case in survey.cases]
    if card is None or card.subject is None:
        subjects = Counter(match[1] for name in names for match in [_BIDS_SUBJECT.match(name)] if match)
        for subject, count in subjects.items():
            if count > 1:
                text = f"{subject} has {count} cases, which may come into different folds: "
                yield Finding(
                    "warning", "subject in two folds", "", text + "state subject: (sub-[^_]+) in the task card"
                )
    if card is None:
        return
    try:
        # Drawn folds are alike: if the first can be made, all can.
        stated = None if card.splits_file is None else read_splits(Path(card.splits_file), set(names), card.subject)
        for fold in range(1 if stated is None else len(stated)):
            split_cases(survey.cases, fold, card.folds, card.subject, card.seed, card.splits_file)
    except (ConfigError, InputError) as error:
        kind = "subject in two folds" if "in training and in validation" in str(error) else "folds"
        yield Finding("error", kind, "", str(error))


def _missing_labels(readings: Sequence[CaseReading], card: TaskCard | None) -> Iterator[Finding]:
    values = {value for reading in readings for value in reading.values or ()}
    read = [reading for reading in readings if reading.values is not None]
    if read and not any(value > 0 for value in values):
        yield Finding("error", "empty labels", "", "no case has a labelled voxel besides background: check the labels")
    if card is None:
        found = ", ".join(map(str, sorted(values)[:20])) or "none"
        text = f"nothing states names of the labels (values found: {found}) and the modality: write a task card to plan"
        yield Finding("warning", "no card", "", text)
    elif read and values:
        absent = [name for name, value in card.labels.items() if value > 0 and value not in values]
        if absent:
            some = ", ".join(absent[:3]) + (f" and {len(absent) - 3} more" if len(absent) > 3 else "")
            text = f"no case has a voxel of {some}: check the labels, or leave the names out of the task card"
            yield Finding("warning", "label in no case", "", text)
    if card is not None and card.ignore is not None and read and not any(reading.ignored for reading in readings):
        text = f"no case has a voxel of {card.ignore}, the value to be ignored: check 'ignore' in the task card"
        yield Finding("warning", "label in no case", "", text)
