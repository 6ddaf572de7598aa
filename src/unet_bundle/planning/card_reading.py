"""What a task card's file and a data set's ``dataset.json`` state, as values of the card."""

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.planning.label_rules import BACKGROUND


class _StrictLoader(yaml.SafeLoader):
    """YAML without repeated keys: PyYAML keeps the last one silently, and a label would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {key!r} is given twice")
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, where: str) -> dict[str, Any]:
    """The keys and values of a task card's file.

    Raises:
        ConfigError: it cannot be read, or is no YAML of keys and values.
    """
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


def from_dataset_json(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
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
