"""The task card: what a person states about a data set and no program can find out."""

import dataclasses
import difflib
import math
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import RGB
from unet_bundle.planning.label_rules import BACKGROUND, check_ignore, check_instances, check_regions, is_int
from unet_bundle.transforms import LabelValues

CODED_TERMS = ("category", "type", "type_modifier", "region", "region_modifier")
"""Coded terms a label may have: the segmented property category and type of a DICOM SEG and where it lies."""

BORDER_WEIGHT = {"w0": 10.0, "sigma": 5.0, "balance": False}
"""Keys of `border_weight` and what the paper has for them (Ronneberger et al. 2015), all classes alike."""

TERM_KEYS = ("color", *CODED_TERMS)
CODE_KEYS = ("value", "scheme", "meaning")


_TEXTS = (
    "name", "title", "description", "authors", "copyright", "data_source", "data_license", "subject", "splits_file",
    "label_files", "version",
)  # fmt: skip


@dataclass(frozen=True)
class TaskCard:
    """What a person states about a task; `load_card` fills what is left out from the data set's own description.

    Attributes:
        name: Short name of the bundle: letters, digits, ``_``, ``-`` and ``.``.
        title: What the bundle does, in a few words.
        description: A sentence or two for the bundle's metadata.
        authors: Who made the bundle.
        copyright: Copyright line of the bundle.
        data_source: Where the scans and labels come from, with the citation asked for.
        data_license: Terms of the scans and labels, as text.
        modality: One entry per image channel, such as ``"MRI"`` or ``"CT"``; ``[RGB]`` stands for red, green and blue.
        labels: Label name to voxel value; ``background`` is 0 and the values are consecutive.
        terms: Per label name a ``color`` ([r, g, b], 0 to 255) and coded terms ``{value, scheme, meaning}``.
        left_right_pairs: Pairs of labels that are the left and right of one organ.
        subject: How a case name gives the subject (see `unet_bundle.io.splits.subject_of`); None: each case is one.
            Of a BIDS data set it is the ``sub-`` entity if nothing else is stated.
        splits_file: An existing splits file in nnU-Net's form, instead of folds drawn here.
        image_files: Pattern of the image files, such as ``*/{case}.nii.gz``, or one for each channel, for data sets
            whose layout is not known (see `unet_bundle.io.survey_cases`).
        label_files: Pattern of the label files; stated with `image_files` or not at all.
        label_values: Per label name the values that label files have for it: whole numbers, ranges as text
            (``"1-65535"``) and, for one label at most, ``rest`` (see `unet_bundle.transforms.LabelValues`). None: label
            files hold the labels' own values.
        instances: Whether label files number single objects (cells, nodules), which results are to number, too; with
            `label_values` that say which numbers are which class.
        border_weight: For `instances`: how much more the loss counts on the borders between objects, by ``w0``,
            ``sigma`` (mm, or pixels of pictures) and ``balance`` of `unet_bundle.transforms.BorderWeightd`; what is not
            stated is as in `BORDER_WEIGHT`. None: all voxels count alike.
        ignore: Value of label files where nobody labelled: such voxels count neither in training nor in scores.
        regions: Region name to label values, for regions that overlap: they are learnt and scored instead of the
            labels, and painted in this order into a label map of the labels.
        surface_tolerance: Distance in mm within which two surfaces agree, for the surface Dice: one for all labels or
            regions, or by name (the others have 1 mm).
        folds: Number of cross-validation folds.
        seed: Seed of the folds and of training.
        overrides: Values of the plan by name that take the place of the planned ones.
        version: Version of the bundle, ``major.minor.patch``.
        changelog: Version to what changed in it; holds `version`.
    """

    name: str
    title: str
    description: str
    authors: str
    copyright: str
    data_source: str
    data_license: str
    modality: list[str]
    labels: dict[str, int]
    terms: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_right_pairs: list[list[str]] = field(default_factory=list)
    subject: str | None = None
    splits_file: str | None = None
    image_files: str | list[str] | None = None
    label_files: str | None = None
    label_values: dict[str, list[int | str]] | None = None
    ignore: int | None = None
    regions: dict[str, list[int]] | None = None
    instances: bool = False
    border_weight: dict[str, Any] | None = None
    surface_tolerance: float | dict[str, float] = 1.0
    folds: int = 5
    seed: int = 0
    overrides: dict[str, Any] = field(default_factory=dict)
    version: str = "0.1.0"
    changelog: dict[str, str] = field(default_factory=dict)

    def segments(self) -> dict[str, dict[str, Any]]:
        """Value, colour and coded terms of each label but the background, in the order of the values."""
        names = sorted((name for name in self.labels if name != BACKGROUND), key=lambda name: self.labels[name])
        return {name: {"value": self.labels[name], **self.terms.get(name, {})} for name in names}

    def class_values(self) -> list[list[int | str]] | None:
        """`label_values` in the order of the classes, as `unet_bundle.transforms.MergeLabelsd` takes them.

        The value to be ignored, if there is one, comes last, as if it were one class more: `ignore_index`.
        """
        names = sorted(self.labels, key=lambda name: self.labels[name])
        if self.ignore is None:
            return None if self.label_values is None else [self.label_values.get(name, []) for name in names]
        stated = {name: [self.labels[name]] for name in names} if self.label_values is None else self.label_values
        return [*(list(stated.get(name, [])) for name in names), [self.ignore]]

    @property
    def ignore_index(self) -> int | None:
        """What becomes of the value to be ignored when label files are read; None if there is none."""
        return None if self.ignore is None else len(self.labels)

    def targets(self) -> list[str]:
        """Names of what is learnt and scored: the regions, or else the labels but the background."""
        return [*self.segments()] if self.regions is None else [*self.regions]


def load_card(path: Path | str | None, dataset_json: Mapping[str, Any]) -> TaskCard:
    """Read a task card and fill what it leaves out from ``dataset.json``.

    Args:
        path: A YAML file, or None for a data set that describes itself.
        dataset_json: The contents of a Decathlon ``dataset.json``; may be empty where the card states everything.

    Returns:
        The checked card.

    Raises:
        ConfigError: If the card cannot be read, has an unknown key or a value that cannot be right.
        InputError: If a needed value stands neither in the card nor in ``dataset.json``.
    """
    where = "dataset.json" if path is None else f"task card {Path(path).name!r}"
    stated = {} if path is None else _read_yaml(Path(path), where)
    known = [entry.name for entry in fields(TaskCard)]
    _check_keys(stated, known, where)

    # What the card states is not looked for in dataset.json, which may have it in a form that nobody knows.
    described = {key: value for key, value in dataset_json.items() if stated.get(key) is None or key == "name"}
    values = _from_dataset_json(described) | {key: value for key, value in stated.items() if value is not None}
    for key in ("name", "modality", "labels"):
        if not values.get(key):
            raise InputError(f"neither the task card nor dataset.json states {key!r}: add {key!r} to the task card")
    values.setdefault("title", values["name"])
    values.setdefault("description", values["title"])
    values.setdefault("changelog", {values.get("version", "0.1.0"): "First plan."})
    for key in ("authors", "copyright", "data_source", "data_license"):
        values.setdefault(key, "not stated")
    if values["modality"] == ["RGB"]:
        values["modality"] = list(RGB)
    if values.get("image_files") is None and dataset_json.get("subject"):
        values.setdefault("subject", dataset_json["subject"])
    _list_label_values(values, where)
    _fill_border_weight(values, where)
    card = TaskCard(**values)
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
    return card


def close_match(name: str, known: Iterable[str]) -> str:
    """`name`'s nearest spelling in `known` as a clause, or else the list of what is known."""
    known = list(known)
    matches = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {matches[0]!r}?" if matches else f"known are {', '.join(known)}"


class _StrictLoader(yaml.SafeLoader):
    """YAML without repeated keys: PyYAML keeps the last one silently, and a label would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {key!r} is given twice")
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path, where: str) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where} cannot be read: {error}") from error
    try:
        content = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{where} must hold 'key: value' lines, not {type(content).__name__}")
    return content


def _from_dataset_json(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """Card values as a Decathlon ``dataset.json`` states them: value to name there, name to value here."""
    _check_no_regions(dataset_json.get("labels"))
    values: dict[str, Any] = {}
    texts = {"title": "name", "description": "description", "data_source": "reference", "data_license": "licence"}
    for key, source in texts.items():
        text = str(dataset_json.get(source) or "").strip()
        if text:
            values[key] = text
    if dataset_json.get("name"):
        values["name"] = re.sub(r"[^a-z0-9]+", "_", str(dataset_json["name"]).lower()).strip("_")
    try:
        modality = {int(key): str(value) for key, value in dict(dataset_json.get("modality") or {}).items()}
        labels = {int(key): str(value) for key, value in dict(dataset_json.get("labels") or {}).items()}
    except (TypeError, ValueError) as error:
        raise InputError(
            "dataset.json must give 'modality' and 'labels' as {\"0\": name, ...}: correct it or state both in a card"
        ) from error
    if sorted(modality) != list(range(len(modality))):
        raise InputError(f"dataset.json numbers its modalities {sorted(modality)} instead of from 0: correct it")
    if len(set(labels.values())) < len(labels):
        raise InputError(f"dataset.json gives one name to several labels ({sorted(labels.values())}): name them apart")
    if modality:
        values["modality"] = [modality[channel] for channel in sorted(modality)]
    if dataset_json.get("ignore") is not None:
        values["ignore"] = dataset_json["ignore"]
    if labels:
        values["labels"] = {BACKGROUND if value == 0 else labels[value]: value for value in sorted(labels)}
    return values


def _check_no_regions(labels: Any) -> None:
    """Refuse nnU-Net's regions, which have no names for the single values."""
    if isinstance(labels, Mapping) and any(isinstance(value, list) for value in labels.values()):
        raise InputError(
            "dataset.json states regions: name each label value under 'labels' in a task card, and the regions under "
            "'regions', in the order in which they are painted (there: regions_class_order)"
        )


def _check_keys(given: Mapping[Any, Any], known: Iterable[str], where: str) -> None:
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
        _check_keys(terms, TERM_KEYS, f"{where}, terms of {name!r}")
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


def _list_label_values(values: dict[str, Any], where: str) -> None:
    """Put single values into lists: ``liver: 5`` says the same as ``liver: [5]``."""
    stated = values.get("label_values")
    if stated is None:
        return
    if not isinstance(stated, dict):
        raise ConfigError(f"{where}: label_values must be 'label: values' lines, not {stated!r}")
    values["label_values"] = {
        name: list(entry) if isinstance(entry, list) else [entry] for name, entry in stated.items()
    }


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


def _fill_border_weight(values: dict[str, Any], where: str) -> None:
    stated = values.get("border_weight")
    if stated is not None and not isinstance(stated, dict):
        raise ConfigError(f"{where}: border_weight must be such as {{w0: 10, sigma: 5}}, not {stated!r}")
    if stated is not None:
        _check_keys(stated, BORDER_WEIGHT, f"{where}, border_weight")
        values["border_weight"] = {**BORDER_WEIGHT, **stated}


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
    if not is_int(card.seed) or card.seed < 0:
        raise ConfigError(f"{where}: seed must be a whole number of at least 0, not {card.seed!r}")
