"""The parts of the reference that are made from the code: help of the command line, keys of the configs."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from unet_bundle.cli import VERBS, main
from unet_bundle.planning.bundle import metadata
from unet_bundle.planning.card import load_card
from unet_bundle.planning.plan import Plan, make_plan
from unet_bundle.planning.task_card import TaskCard
from unet_bundle.planning.template import configs

ROOT = Path(__file__).resolve().parents[2]
KEYS_FILE = ROOT / "docs" / "keys.yaml"
COMMON, TENSOR, METADATA = "common", "tensor", "metadata.json"
SEPARATOR = "::"
WIDTH = "100"
"""Columns of a line of help."""

LONGEST_VALUE = 60
"""Characters of a value that is shown in a table."""
FREE = {
    *("labels", "colors", "segments", "regions", "label_terms", "channel_def", "surface_tolerance"),
    *("changelog", "required_packages_version", "key_metric", "family"),
}
"""Keys below which names are the data set's own, or those of packages, versions and metrics."""

Meanings = dict[str, dict[str, str]]


# --- command line -----------------------------------------------------------------------------------------------


def verbs() -> list[str]:
    """The verbs of `unet-bundle`, in the order of its help."""
    return [verb.__name__.rpartition(".")[2].replace("_", "-") for verb in VERBS]


def command_help(*verb: str) -> str:
    """What `unet-bundle VERB --help` prints; without a verb that of the program."""
    text, columns = io.StringIO(), os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = WIDTH
    try:
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            main([*verb, "--help"])
    finally:
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
    return text.getvalue()


def commands_page() -> str:
    """A section for the program and for each verb, in Markdown."""
    sections = [("unet-bundle", command_help()), *((f"unet-bundle {verb}", command_help(verb)) for verb in verbs())]
    return "\n\n".join(f"## {title}\n\n```text\n{text.rstrip()}\n```" for title, text in sections)


# --- configs ----------------------------------------------------------------------------------------------------


def read_meanings() -> Meanings:
    """The meaning of each key by the section of `keys.yaml`."""
    meanings: Meanings = yaml.safe_load(KEYS_FILE.read_text(encoding="utf-8"))
    return meanings


def shipped_plan() -> tuple[Plan, TaskCard]:
    """The plan of the shipped bundle, and its card."""
    card = load_card(ROOT / "configs" / "hippocampus.yaml", {})
    fingerprint = json.loads((ROOT / "configs" / "hippocampus.fingerprint.json").read_text(encoding="utf-8"))
    return make_plan(fingerprint, card, "cpu"), card


def every_kind() -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Configs and metadata of plans that have, between them, every key that there is."""
    plan, card = shipped_plan()
    values: list[list[int | str]] = [[0], ["1-5"], [6]]
    kinds = {
        "shipped": plan,
        "CT": replace(plan, modality=["CT"], normalization=[{"scheme": "ct"}]),
        "channels": replace(plan, in_channels=2, modality=["MRI", "MRI"]),
        "sparse": replace(plan, ignore_index=3, label_values=values),
        "regions": replace(plan, regions={"whole": [1, 2], "posterior": [2]}),
        "instances": replace(
            plan, instances=True, label_values=values, border_weight={"w0": 10.0, "sigma": 5.0, "balance": False}
        ),
        "layout": replace(plan, image_files="*/{case}.nii.gz", label_files="*/{case}_seg.nii.gz"),
    }
    return {name: (configs(each), metadata(each, card)) for name, each in kinds.items()}


def keys_of(config: Mapping[str, Any], above: str = "") -> list[str]:
    """The keys of a config and of what lies in it, as they are written on the command line, in its order.

    Arguments of a component and names that are the data set's own are no keys; nor is the ``+`` of a config that adds
    to another.
    """
    keys = []
    for written, value in config.items():
        name = written.removeprefix("+")
        keys.append(above + name)
        if isinstance(value, Mapping) and "_target_" not in value and name not in FREE and not _is_tensor(value):
            keys += keys_of(value, f"{above}{name}{SEPARATOR}")
    return keys


def _is_tensor(value: Mapping[str, Any]) -> bool:
    return "channel_def" in value


def planned_keys() -> dict[str, list[str]]:
    """Every key that `plan` may write, by the file it is in; the entries of a tensor stand under `tensor`."""
    found: dict[str, dict[str, None]] = {}
    for files, meta in every_kind().values():
        for file, config in {**files, METADATA: meta}.items():
            found.setdefault(file, {}).update(dict.fromkeys(keys_of(config)))
        for side in meta["network_data_format"].values():
            for tensor in side.values():
                found.setdefault(TENSOR, {}).update(dict.fromkeys(tensor))
    return {file: list(keys) for file, keys in found.items()}


def meaning_of(key: str, file: str, meanings: Meanings) -> str | None:
    """What `key` means in `file`; None if no line says so."""
    return meanings.get(file, {}).get(key, meanings[COMMON].get(key))


def configs_page() -> str:
    """A table of keys for each file, with values of the shipped bundle, in Markdown."""
    meanings, keys = read_meanings(), planned_keys()
    files, meta = every_kind()["shipped"]
    shipped = {**files, METADATA: meta}
    order = [name for name in meanings if name in shipped]
    sections = []
    for file in order:
        rows = [f"| `{key}` | {meaning_of(key, file, meanings)}{_shown(shipped[file], key)} |" for key in keys[file]]
        sections.append("\n".join([f"## {file}\n", "| key | meaning |", "| --- | --- |", *rows]))
    rows = [f"| `{key}` | {meanings[TENSOR][key]} |" for key in keys[TENSOR]]
    sections.append("\n".join(["### What is said of a tensor\n", "| key | meaning |", "| --- | --- |", *rows]))
    return "\n\n".join(sections)


def _shown(config: Mapping[str, Any], key: str) -> str:
    """The value in the shipped bundle, in brackets: a plain one if it is short, a component by its target."""
    value: Any = config
    for name in key.split(SEPARATOR):
        found = [written for written in value if written.removeprefix("+") == name]
        if not found:
            return ""
        value = value[found[0]]
    if isinstance(value, Mapping):
        text = str(value.get("_target_", ""))
    else:
        text = json.dumps(value, ensure_ascii=False).replace("|", "\\|")
    return f" (here `{text}`)" if 0 < len(text) <= LONGEST_VALUE and "{" not in text else ""
