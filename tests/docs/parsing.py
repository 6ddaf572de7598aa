"""Parsing the arguments of a command by the parser of what it runs, without running that."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import inspect
import re
import runpy
import sys
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from functools import partialmethod
from pathlib import Path
from pydoc import locate
from typing import Any
from unittest.mock import MagicMock

import pytest

ROOT = Path(__file__).resolve().parents[2]
UNCHECKED = {"cp", "source", "monailabel", "monai-deploy", "py", "python3.11"}
"""Programs whose arguments nothing here can parse: their commands have to be exceptions."""
UNCHECKED_MODULES = {"monailabel.main", "unet_bundle.deploy.app"}
"""Likewise modules, whose arguments are those of packages with an environment of their own."""
PASSED_ON = {"push_to_hf_hub": {"allow_patterns", "ignore_patterns", "commit_message", "revision"}}
"""Arguments that a command of MONAI hands on to another library's function."""


class UnknownArgumentError(ValueError):
    """A command has an argument that what it runs does not know."""


class _ParsedError(Exception):
    """The arguments were parsed: nothing more is wanted."""


class Parsers:
    """The parsers of all programs that the documentation speaks of.

    Args:
        configs: that a bundle may have, by file.
        monkeypatch: to take the place of what a command runs for a moment.
    """

    def __init__(self, configs: Mapping[str, Sequence[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
        self.configs, self.monkeypatch = configs, monkeypatch

    def check(self, command: Any) -> None:
        """Parse a command.

        Raises:
            UnknownArgumentError: with the command and what is wrong.
        """
        words = _words(command)
        try:
            if not is_unchecked(command):
                self._program(words[0])(words[1:])
        except (SystemExit, LookupError, ValueError, TypeError, AttributeError, SyntaxError, OSError) as error:
            raise UnknownArgumentError(f"{command}\n{type(error).__name__}: {error}") from error

    def _program(self, name: str) -> Callable[[Sequence[str]], None]:
        known = {
            "unet-bundle": self._verb,
            "make": self._make,
            "pip": self._pip,
            "torchrun": self._torchrun,
            "python": self._python,
        }
        if name not in known:
            raise ValueError("nothing here knows this program: say how its arguments are parsed")
        return known[name]

    def _python(self, rest: Sequence[str]) -> None:
        modules = {
            "monai.bundle": lambda words: self._monai(words[0], words[1:]),
            "pip": self._pip,
            "unet_bundle.cli": self._verb,
        }
        if rest[0] == "-m" and rest[1] in modules:
            modules[rest[1]](rest[2:])
        elif rest[0] == "-c":
            compile(rest[1], "<command>", "exec")
        elif rest[0].startswith("scripts/"):
            self._script(ROOT / rest[0], rest[1:])
        else:
            raise ValueError("nothing here knows what Python runs there: say how its arguments are parsed")

    def _make(self, rest: Sequence[str]) -> None:
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        _all_known([word for word in rest if "=" not in word], targets)

    def _pip(self, rest: Sequence[str]) -> None:
        project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
        table = project.split("[project.optional-dependencies]")[1].split("\n[")[0]
        extras = re.findall(r"^(\w+) = \[", table, re.MULTILINE)
        for word in rest:
            found = re.fullmatch(r"(?:unet-bundle|\.)\[([a-z,]+)\]", word)
            if found:
                _all_known(found[1].split(","), extras)
            elif word.endswith(".txt") and not (ROOT / word).is_file():
                raise FileNotFoundError(word)

    def _torchrun(self, rest: Sequence[str]) -> None:
        from torch.distributed.run import get_args_parser

        parsed = get_args_parser().parse_args(rest)
        self._python([*(["-m"] if parsed.module else []), parsed.training_script, *parsed.training_script_args])

    def _monai(self, name: str, rest: Sequence[str]) -> None:
        if name == "run":
            self._monai_run(rest)
            return
        import monai.bundle

        known = {*inspect.signature(getattr(monai.bundle, name)).parameters, *PASSED_ON.get(name, ())}
        _all_known([word.removeprefix("--") for word in rest if word.startswith("--")], known)

    def _monai_run(self, rest: Sequence[str]) -> None:
        options = dict(zip(rest[::2], rest[1::2], strict=True))
        config_file = options.pop("--config_file")
        paths = ast.literal_eval(config_file) if config_file.startswith("[") else [config_file]
        if options.pop("--bundle_root") != "bundle" or not all(path.startswith("bundle/configs/") for path in paths):
            raise ValueError("the bundle's folder is called bundle everywhere")
        self._overrides([option.removeprefix("--") for option in options], [Path(path).name for path in paths])

    def _verb(self, arguments: Sequence[str]) -> None:
        from unet_bundle import cli
        from unet_bundle.cli.workflow import parse_overrides

        parsed: list[tuple[argparse.Namespace, Sequence[str]]] = []

        def note(files: Sequence[str]) -> Callable[[argparse.Namespace], int]:
            return lambda args: parsed.append((args, files)) or 0

        with self.monkeypatch.context() as patch:
            for verb in cli.VERBS:
                patch.setattr(verb, "run", note(getattr(verb, "FILES", ())))
            if cli.main(arguments) != 0:
                raise ValueError("its arguments are refused")
        args, files = parsed[0]
        self._overrides(list(parse_overrides(args.overrides, {})), files)

    def _overrides(self, overrides: Sequence[str], files: Sequence[str]) -> None:
        configs = [config for file in files for config in self.configs[file]]
        for key in overrides:
            if not any(_takes(config, key.split("::")) for config in configs):
                raise ValueError(f"{key!r} is no key of {', '.join(files)}")

    def _script(self, path: Path, arguments: Sequence[str]) -> None:
        """Run a script up to the point where its arguments are parsed."""
        parse = argparse.ArgumentParser.parse_known_args

        def stop(parser: argparse.ArgumentParser, *_: Any, strict: bool) -> None:
            unknown = parse(parser, list(arguments))[1]
            if unknown and strict:
                parser.error(f"unrecognized arguments: {' '.join(unknown)}")
            raise _ParsedError

        missing = list(_missing_modules(path))
        with self.monkeypatch.context() as patch:
            patch.syspath_prepend(str(path.parent))
            for name in missing:
                patch.setitem(sys.modules, name, MagicMock())
            patch.setattr(argparse.ArgumentParser, "parse_args", partialmethod(stop, strict=True))
            patch.setattr(argparse.ArgumentParser, "parse_known_args", partialmethod(stop, strict=False))
            patch.setattr(sys, "argv", [path.name, *arguments])
            with pytest.raises(_ParsedError):
                runpy.run_path(str(path), run_name="__main__")


def is_unchecked(command: Any) -> bool:
    """Whether nothing here can parse the arguments of a command."""
    words = _words(command)
    module = words[2] if words[:2] == ["python", "-m"] else None
    return words[0] in UNCHECKED or module in UNCHECKED_MODULES


def _words(command: Any) -> list[str]:
    """A command without the variables set for it, the Python of any environment as ``python``."""
    words = [word for word in command.words if not re.fullmatch(r"[A-Z_]+=.*", word)]
    return ["python", *words[1:]] if words[0].startswith(".venv") else words


def _takes(value: Any, names: Sequence[str]) -> bool:
    """Whether a config has a value of this path, or a component that takes it as an argument."""
    if not names:
        return True
    if isinstance(value, list):
        return names[0].isdigit() and int(names[0]) < len(value) and _takes(value[int(names[0])], names[1:])
    if not isinstance(value, Mapping):
        return False
    for written in (names[0], f"+{names[0]}"):  # the latter in a config that adds to another
        if written in value:
            return _takes(value[written], names[1:])
    return "_target_" in value and len(names) == 1 and _is_argument(value["_target_"], names[0])


def _is_argument(target: str, name: str) -> bool:
    found = locate(target) or getattr(importlib.import_module("monai.transforms"), target, None)
    return callable(found) and name in inspect.signature(found).parameters


def _all_known(names: Sequence[str], known: Container[str]) -> None:
    for name in names:
        if name not in known:
            raise ValueError(f"{name!r} is not known")


def _missing_modules(path: Path) -> Iterator[str]:
    """What a script imports and this environment lacks."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            beside = (path.parent / f"{name}.py").is_file()
            if not beside and importlib.util.find_spec(name.partition(".")[0]) is None:
                parts = name.split(".")
                yield from (".".join(parts[: end + 1]) for end in range(len(parts)))
