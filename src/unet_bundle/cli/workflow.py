"""Running a bundle's configs as the MONAI CLI does, and saying which line of it that is."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from unet_bundle.errors import ConfigError
from unet_bundle.runtime import quiet_logs, read_json

Overrides = dict[str, Any]

OVERRIDES_HELP = """\
Any value of the configs is changed by --key value, as in the MONAI CLI: --batch_size 4, --network_def::dropout 0.1"""


def say(text: str = "") -> None:
    """Print a line for the person; logs go to the error stream."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Let `parser` take a bundle and overrides of its configs."""
    parser.add_argument(
        "bundle", type=Path, metavar="BUNDLE", help="folder of the bundle, as `unet-bundle plan` writes it"
    )
    parser.set_defaults(takes_overrides=True)


def parse_overrides(arguments: Sequence[str]) -> Overrides:
    """``--key value`` pairs to a dictionary; values are numbers, lists, true, false, null or text, as YAML reads them.

    Raises:
        ConfigError: an argument is not of that form.
    """
    overrides: Overrides = {}
    rest = list(arguments)
    while rest:
        flag = rest.pop(0)
        if not flag.startswith("--") or flag == "--":
            raise ConfigError(f"Unexpected argument {flag!r}: values of the configs are given as --key value.")
        key, separator, value = flag[2:].partition("=")
        if not separator:
            if not rest:
                raise ConfigError(f"--{key} needs a value.")
            value = rest.pop(0)
        overrides[key.replace("#", "::")] = _value(value)
    return overrides


def _value(text: str) -> Any:
    if text.startswith(("$", "@", "%")):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def load_workflow(bundle: Path, files: Sequence[str], overrides: Mapping[str, Any], workflow_type: str) -> Any:
    """The bundle's configs as an initialised MONAI ``ConfigWorkflow``.

    Args:
        bundle: folder of the bundle.
        files: names of the configs, in the order they are merged.
        overrides: values that replace those of the configs.
        workflow_type: ``"train"`` or ``"infer"``.

    Raises:
        ConfigError: not a bundle, or an override that has no place in it.
    """
    for name in files:
        read_json(bundle / "configs" / name)
    from monai.bundle import ConfigWorkflow

    try:
        workflow = ConfigWorkflow(
            config_file=[str(bundle / "configs" / name) for name in files],
            logging_file=str(bundle / "configs" / "logging.conf"),
            workflow_type=workflow_type,
            bundle_root=str(bundle),
            **overrides,
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        # MONAI walks to the parent of each key and fails in its own words where there is none.
        raise ConfigError(
            f"One of the keys {', '.join(map(repr, overrides))} has no parent in {', '.join(files)}."
        ) from error
    quiet_logs()
    workflow.initialize()
    return workflow


def monai_line(bundle: Path, files: Sequence[str], overrides: Mapping[str, Any]) -> str:
    """The line of the MONAI CLI that does the same."""
    paths = [str(bundle / "configs" / name) for name in files]
    config_file = paths[0] if len(paths) == 1 else str(paths)
    words = ["python", "-m", "monai.bundle", "run", "--config_file", config_file, "--bundle_root", str(bundle)]
    for key, value in overrides.items():
        words += [f"--{key}", str(value)]
    return shlex.join(words)
