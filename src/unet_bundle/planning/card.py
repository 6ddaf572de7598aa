"""Reading a task card, and filling what it leaves out."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import RGB
from unet_bundle.planning.card_checks import check_card, check_keys
from unet_bundle.planning.card_reading import from_dataset_json, read_yaml
from unet_bundle.planning.task_card import TaskCard

BORDER_WEIGHT = {"w0": 10.0, "sigma": 5.0, "balance": False}
"""Keys of `border_weight` and what the paper has for them (Ronneberger et al. 2015), all classes alike."""


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
    stated = {} if path is None else read_yaml(Path(path), where)
    known = [entry.name for entry in fields(TaskCard)]
    check_keys(stated, known, where)

    # What the card states is not looked for in dataset.json, which may have it in a form that nobody knows.
    described = {key: value for key, value in dataset_json.items() if stated.get(key) is None or key == "name"}
    values = from_dataset_json(described) | {key: value for key, value in stated.items() if value is not None}
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
    check_card(card, where)
    return card


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


def _fill_border_weight(values: dict[str, Any], where: str) -> None:
    stated = values.get("border_weight")
    if stated is not None and not isinstance(stated, dict):
        raise ConfigError(f"{where}: border_weight must be such as {{w0: 10, sigma: 5}}, not {stated!r}")
    if stated is not None:
        check_keys(stated, BORDER_WEIGHT, f"{where}, border_weight")
        values["border_weight"] = {**BORDER_WEIGHT, **stated}
