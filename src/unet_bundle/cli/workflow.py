"""Running a bundle's configs as the MONAI CLI does, and saying which line of it that is."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from unet_bundle.config_checks import SEPARATOR
from unet_bundle.errors import ConfigError
from unet_bundle.runtime import quiet_logs

Overrides = dict[str, Any]

OVERRIDES_HELP = """\
Any value of the configs is changed by --key value, as in the MONAI CLI: --batch_size 4, --network_def::dropout 0.1"""


AS_TYPED = (f"dicom{SEPARATOR}series_uid", f"dicom{SEPARATOR}series_description")
"""Ends of the keys whose values are text, be they digits: the ending of a UID may look like a number."""

QUOTES = "'\""


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


def check_folder(folder: Path) -> None:
    """Refuse a data set that is not there.

    Raises:
        ConfigError: no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} {'is no folder' if folder.exists() else 'does not exist'}: give the DATASET.")


def split_overrides(arguments: Sequence[str], parser: argparse.ArgumentParser) -> tuple[list[str], list[str]]:
    """Part what `parser` knows from overrides of the configs, which argparse would take apart at their values.

    Args:
        arguments: of the command line.
        parser: of the verb. Its options may also be written with ``_``, as keys of the configs are.

    Returns:
        What is for the parser, options first, since argparse gives an optional argument up at the first option behind
        it; and ``--key value`` pairs.

    Raises:
        ConfigError: an option that is not the parser's has no value.
    """
    actions = parser._actions  # noqa: SLF001 - no public way
    options = {option: action for action in actions for option in action.option_strings}
    known, overrides, others, rest = [], [], [], list(arguments)
    while rest:
        argument = rest.pop(0)
        flag, separator, value = argument.partition("=")
        if not flag.startswith("--"):
            others.append(argument)
        elif flag.replace("_", "-") in options:
            action = options[flag.replace("_", "-")]
            if action.nargs == "?" and not separator:  # argparse would take what follows for its value
                separator, value = "=", rest.pop(0) if rest[:1] and rest[0] in (action.choices or ()) else action.const
            known.append(flag.replace("_", "-") + separator + value)
            if action.nargs not in (0, "?") and not separator and rest:
                known.append(rest.pop(0))
        elif separator:
            overrides += [flag, value]
        elif rest and not rest[0].startswith("--"):
            overrides += [flag, rest.pop(0)]
        else:
            close = difflib.get_close_matches(flag, options, n=1)
            hint = f"did you mean {close[0]}?" if close else "values of the configs are given as --key value."
            raise ConfigError(f"{flag} has no value: {hint}")
    return [*known, *others], overrides


def parse_overrides(arguments: Sequence[str], own: Mapping[str, Any]) -> Overrides:
    """What a verb sets in the configs, and the person's ``--key value`` pairs besides.

    Args:
        arguments: keys and values in turn; values are numbers, lists, true, false, null or text, as YAML reads them.
        own: what the verb's own arguments set.

    Raises:
        ConfigError: a key that the verb's own arguments set already.
    """
    overrides: Overrides = dict(own)
    for flag, value in zip(arguments[::2], arguments[1::2], strict=True):
        key = flag.removeprefix("--").replace("#", SEPARATOR)
        if key in own or key == "bundle_root":
            raise ConfigError(f"{flag} is set by the other arguments of this command: leave it out.")
        overrides[key] = _text(value) if key.endswith(AS_TYPED) else _value(value)
    return overrides


def _text(typed: str) -> str | None:
    """What was typed, without quotes round it, which are needed elsewhere to keep a number from being read as one."""
    if typed == "null":
        return None
    quoted = len(typed) > 1 and typed[0] == typed[-1] and typed[0] in QUOTES
    return typed[1:-1] if quoted else typed


def _value(text: str) -> Any:
    if text.startswith(("$", "@", "%")):
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        return text
    if isinstance(value, str) and not text.lstrip().startswith(tuple(QUOTES)):
        with contextlib.suppress(ValueError):  # YAML wants a point in 1e-3
            return float(value)
    return value


def read_json(path: Path, remedy: str) -> Any:
    """Read a JSON file; `remedy` says what to do if it is missing.

    Raises:
        ConfigError: the file is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{path} is missing: {remedy}.") from None
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}.") from error


def read_config(bundle: Path, name: str) -> Any:
    """Read one of a bundle's configs as it is written there.

    Raises:
        ConfigError: not a bundle.
    """
    return read_json(bundle / "configs" / name, "give the folder of a bundle, as `unet-bundle plan` writes it")


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
    for name in [*files, "metadata.json"]:
        read_config(bundle, name)
    from monai.bundle import ConfigWorkflow

    paths = [str(bundle / "configs" / name) for name in files]
    try:
        workflow = ConfigWorkflow(config_file=paths, workflow_type=workflow_type, bundle_root=str(bundle), **overrides)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        key = _key_without_parent(paths, overrides)
        if key is None:
            raise
        parent = key.rpartition(SEPARATOR)[0]
        raise ConfigError(f"Unknown configuration key {key!r}: {', '.join(files)} has no {parent!r}.") from error
    quiet_logs()
    workflow.initialize()
    return workflow


def _key_without_parent(paths: list[str], overrides: Mapping[str, Any]) -> str | None:
    """The first override for which MONAI finds no place; it fails on one in its own words."""
    from monai.bundle import ConfigParser

    parser = ConfigParser()
    parser.read_config(paths)
    for key, value in overrides.items():
        try:
            parser[key] = value
        except (KeyError, TypeError, ValueError, IndexError):  # noqa: PERF203  (MONAI has no way to ask first)
            return key
    return None


def monai_line(bundle: Path, files: Sequence[str], overrides: Mapping[str, Any]) -> str:
    """The line of the MONAI CLI that does the same."""
    paths = [str(bundle / "configs" / name) for name in files]
    config_file = paths[0] if len(paths) == 1 else str(paths)
    words = ["python", "-m", "monai.bundle", "run", "--config_file", config_file, "--bundle_root", str(bundle)]
    for key, value in overrides.items():
        is_other = isinstance(value, str) and not isinstance(_value(value), str)
        words += [f"--{key}", repr(value) if is_other else str(value)]
    return shlex.join(words)
