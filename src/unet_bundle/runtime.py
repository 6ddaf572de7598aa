"""What every run does first and last: refuse keys nobody knows, and end an error in one line.

`start_run` stands in `initialize` of every config. Under ``python -m monai.bundle`` it also makes one of our errors the
last line of the output; inside a server, a notebook or a test errors stay exceptions.
"""

from __future__ import annotations

import difflib
import errno
import functools
import importlib
import inspect
import logging
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from pydoc import locate
from types import TracebackType
from typing import Any

from unet_bundle.errors import ConfigError, UnetBundleError

logger = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_CASES_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143

SEPARATOR = "::"
COMPONENT_KEYS = frozenset({"_target_", "_disabled_", "_requires_", "_desc_", "_mode_"})
"""Keys MONAI itself reads in a component."""
TRACKING_KEYS = frozenset({"tracking_uri", "experiment_name", "run_name", "save_execute_config", "is_not_rank0"})
"""Top-level values that MONAI's experiment tracking adds to a config, asked for or not used by it."""
AT_LEAST_ONE = frozenset({"max_epochs", "iterations_per_epoch", "val_interval", "batch_size", "sw_batch_size"})
"""Top-level numbers that stand for a count of something that has to happen."""
PER_AXIS = frozenset({"patch_size", "spacing"})
"""Top-level lists that have a value for each axis."""
OR_AUTO: Mapping[str, Any] = {"resume": False, "compile": "auto", "channels_last": "auto"}
"""Top-level values that may be true, false or ``"auto"``, in the configs that have them with this default."""
TRUTH = ("true", "false")
TRUTH_AS_TEXT = frozenset({"resume"})
"""Top-level values whose readers also take true and false as text, as the MONAI CLI hands them on."""
CLASS_KEYS = ("keep_largest", "fill_holes", "smallest_object_ml")
"""Top-level values that name classes of the label map."""
IGNORED_TOP_LEVEL = frozenset({"_meta_"})

PACKAGE = __name__.partition(".")[0]
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})
"""Of the system: a disk that is full or only to be read, which the next file would meet as well."""
_TEMPORARY = re.compile(r"\.[0-9a-f]{32}-")
_NOT_MADE = re.compile(r"Failed to instantiate component '([^']+)'")
"""What MONAI says round the error of a component of a config."""
_WORKER_ERROR = re.compile(rf"^{PACKAGE}(?:\.\w+)+: (.+)$", re.MULTILINE)


def start_run(config_files: Sequence[str]) -> None:
    """Check the running workflow's keys; at the edge of a MONAI command line, also arrange for one-line errors.

    Args:
        config_files: names of the files this config is made of, in the order they are merged.

    Raises:
        ConfigError: a key is neither the bundle's own, nor an argument of its `_target_`, nor used by `@`; one names a
            class that the bundle does not have; or an overlay stands without the config it is laid over.
    """
    if under_monai_command_line():
        end_errors_in_one_line()
    workflow = running_workflow()
    if workflow is None:
        return
    config = workflow.parser.config
    if "network_def" not in config:
        raise ConfigError(
            f"{config_files[-1]} is laid over another config: name that first, as in"
            f" --config_file \"['configs/inference.json','configs/evaluate.json']\"."
        )
    folders = [Path(workflow.config_root_path)]
    if isinstance(config.get("bundle_root"), str):  # a host may run a copy of the config from elsewhere
        folders.append(Path(config["bundle_root"]) / "configs")
    check_keys(config, _own_config(folders, config_files))
    check_classes(config)


# --- unknown keys -----------------------------------------------------------------------------------------------


def check_keys(config: Any, own: Any) -> None:
    """Refuse every key of `config` that would silently have no effect.

    A key is known if the bundle's own files have it, if the `_target_` it stands in takes it as an argument, or if
    another value refers to it by `@`.

    Args:
        config: the merged configuration of the run, with all overrides.
        own: the bundle's own files merged, without overrides; None if they cannot be read (then only arguments of
            components are checked).

    Raises:
        ConfigError: naming the first unknown key and the closest known one, or a value of another kind than ours.
    """
    references = set(_references(config))
    for path, known, key, value in _walk(config, own, ""):
        identifier = f"{path}{SEPARATOR}{key}" if path else key
        if known is not None and key not in known and not _is_referred_to(identifier, references):
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {(path + SEPARATOR if path else '') + close[0]!r}?" if close else "remove it."
            raise ConfigError(f"Unknown configuration key {identifier!r} has no effect: {hint}")
        _check_kind(identifier, value, _child(own, identifier))


def check_classes(config: Mapping[str, Any]) -> None:
    """Refuse a key of cleaning that names a class which the bundle does not have.

    Args:
        config: the merged configuration; what is an expression in it is left aside.

    Raises:
        ConfigError: naming the key and the class.
    """
    labels = config.get("labels")
    if not isinstance(labels, Mapping):
        return
    names = {float(value): name for name, value in labels.items() if value != 0}
    for key in CLASS_KEYS:
        stated = config.get(key)
        unknown = [each for each in stated if _number(each) not in names] if isinstance(stated, Collection) else []
        if unknown and not isinstance(stated, str):
            known = ", ".join(f"{value:g} ({name})" for value, name in names.items())
            raise ConfigError(f"{key} names the class {unknown[0]!r}, but the bundle's are {known}.")


def _number(stated: Any) -> float | None:
    """A class as a config states it: a number, or as the key of a dictionary its digits."""
    try:
        return float(stated)
    except (TypeError, ValueError):
        return None


def _walk(config: Any, own: Any, path: str) -> Iterator[tuple[str, list[str] | None, str, Any]]:
    """Yield (path of the parent, names known there or None for any, key, value) for every key of every dictionary."""
    if isinstance(config, dict):
        known: list[str] | None
        if "_target_" in config:
            arguments = _arguments_of(config["_target_"])
            known = None if arguments is None else [*COMPONENT_KEYS, *arguments]
        elif isinstance(own, dict):
            known = [*own, *(TRACKING_KEYS | IGNORED_TOP_LEVEL if not path else ())]
        else:
            known = None
        for key, value in config.items():
            if not path and key in IGNORED_TOP_LEVEL:
                continue
            yield path, known, str(key), value
            child = own.get(key) if isinstance(own, dict) else None
            yield from _walk(value, child, f"{path}{SEPARATOR}{key}" if path else str(key))
    elif isinstance(config, list):
        # Hosts insert handlers anywhere: items of a list are checked as components only, never by position.
        for index, value in enumerate(config):
            yield from _walk(value, None, f"{path}{SEPARATOR}{index}")


def _child(own: Any, identifier: str) -> Any:
    for key in identifier.split(SEPARATOR):
        own = own.get(key) if isinstance(own, dict) else None
    return own


def _check_kind(identifier: str, value: Any, own: Any) -> None:
    """Refuse a plain value of another kind than the bundle's: MONAI would fail far from the cause, or not at all."""
    is_made = isinstance(value, dict) or (isinstance(value, str) and value.startswith(("$", "@", "%")))
    if value is None or is_made:
        return
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits, kind = True, ""
    if isinstance(own, bool) or (identifier in OR_AUTO and OR_AUTO[identifier] == own):
        fits, kind = _is_truth(identifier, value)
    elif isinstance(own, int):
        fits, kind = is_number and value == int(value), "a whole number"
    elif isinstance(own, float):
        fits, kind = is_number, "a number"
    elif isinstance(own, list):
        fits, kind = isinstance(value, list | tuple), "a list"
    if not fits:
        raise ConfigError(f"Configuration key {identifier!r} must be {kind}, not {value!r}.")
    if identifier in PER_AXIS and isinstance(own, list) and len(value) != len(own):
        raise ConfigError(f"Configuration key {identifier!r} must have {len(own)} values, not {len(value)}: {value!r}.")
    if identifier in AT_LEAST_ONE and value < 1:
        raise ConfigError(f"Configuration key {identifier!r} must be at least 1, not {value!r}.")


def _is_truth(identifier: str, value: Any) -> tuple[bool, str]:
    """Whether a value is true, false, or ``"auto"`` where that is possible; and how these are said."""
    fits, kind = isinstance(value, bool) or value in (0, 1), "true or false"
    if identifier in OR_AUTO:
        fits, kind = fits or value == "auto", "true, false or auto"
    if not fits and str(value).lower() in TRUTH:  # the MONAI CLI reads values as Python's
        return identifier in TRUTH_AS_TEXT, f"{kind}, written {str(value).capitalize()}"
    return fits, kind


def _references(config: Any) -> Iterator[str]:
    if isinstance(config, dict):
        for value in config.values():
            yield from _references(value)
    elif isinstance(config, list):
        for value in config:
            yield from _references(value)
    elif isinstance(config, str) and "@" in config:
        from monai.bundle.reference_resolver import ReferenceResolver

        yield from ReferenceResolver.match_refs_pattern(ReferenceResolver.normalize_id(config))


def _is_referred_to(identifier: str, references: set[str]) -> bool:
    return any(r == identifier or r.startswith(identifier + SEPARATOR) for r in references)


def _arguments_of(target: Any) -> list[str] | None:
    """Names of the arguments `target` takes, or None if it takes any or cannot be inspected."""
    if not isinstance(target, str) or target.startswith(("$", "@")):
        return None
    # Like MONAI: a bare name is one of MONAI's own components, a dotted one a module path.
    module = _component_locator().get_component_module_name(target)
    if isinstance(module, list):
        module = module[0]
    found: Any = getattr(importlib.import_module(module), target, None) if module else _located(target)
    if found is None:
        return None
    return _parameters(found)


def _located(target: str) -> Any:
    """What a dotted path names; pydoc's `locate` looks through all folders for a module of a class's name first."""
    module, _, name = target.rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    return locate(target) if found is None else found


@functools.cache
def _component_locator() -> Any:
    """MONAI's table of its own components; it takes a second to make."""
    from monai.bundle import ComponentLocator

    return ComponentLocator()


def _parameters(found: Any) -> list[str] | None:
    names: list[str] = []
    classes = inspect.getmro(found) if inspect.isclass(found) else (found,)
    for callee, base in zip(classes, [*classes[1:], None], strict=True):
        try:
            parameters = inspect.signature(callee).parameters
        except (TypeError, ValueError):
            return None
        names += [name for name, p in parameters.items() if p.kind not in {p.VAR_POSITIONAL, p.VAR_KEYWORD}]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return names
        # MONAI's DataLoader hands its **kwargs to torch's DataLoader; of other classes nobody knows where they go.
        if getattr(base, "__name__", None) != getattr(callee, "__name__", ""):
            return None
    return None


def running_workflow() -> Any:
    """The MONAI ``ConfigWorkflow`` that is initialising, found on the call stack; None if there is none."""
    from monai.bundle import ConfigWorkflow

    frame = inspect.currentframe()
    try:
        while frame is not None:
            owner = frame.f_locals.get("self")
            if isinstance(owner, ConfigWorkflow):
                return owner
            frame = frame.f_back
    finally:
        del frame
    return None


def _own_config(folders: Sequence[Path], config_files: Sequence[str]) -> dict[str, Any] | None:
    """The bundle's files, merged, from the first folder that has them all; None if none has."""
    from monai.bundle import ConfigParser

    for folder in folders:
        paths = [folder / name for name in config_files]
        if all(path.is_file() for path in paths):
            parser = ConfigParser()
            parser.read_config([str(path) for path in paths])
            own: dict[str, Any] = parser.get()
            return own
    return None


# --- one-line errors --------------------------------------------------------------------------------------------


def under_monai_command_line() -> bool:
    """Whether this process was started as ``python -m monai.bundle`` (or by torchrun with the same module)."""
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec is not None and spec.name in {"monai.bundle", "monai.bundle.__main__"}


def our_error(error: BaseException | None) -> Exception | None:
    """The error of this package that `error` is, or was raised from; None if there is none.

    Counts as one: a value of the config that a component does not take (torch and MONAI raise errors of Python), and a
    disk that is full.

    Looks along the chain of causes, and into the text: a data loader's worker hands over its error as text only. What
    was merely being handled when another error arose is no cause of it.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        from_worker = _WORKER_ERROR.findall(str(error))
        if from_worker:
            return UnetBundleError(from_worker[-1])
        # Networks and steps have error classes of their own, so that the package, not the base class, decides.
        if isinstance(error, Exception) and type(error).__module__.partition(".")[0] == PACKAGE:
            return error
        if isinstance(error, OSError) and error.errno in FULL:
            return ConfigError(storage_words(error))
        refused = _NOT_MADE.match(str(error))
        if refused and type(error.__cause__) is ValueError:
            reason = str(error.__cause__).partition("\n")[0]
            return ConfigError(f"A value of the config does not suit {refused[1]}: {reason}")
        error = error.__cause__
    return None


def storage_words(error: OSError) -> str:
    """What the system refuses, and the folder where the file has a temporary name or the next would fare alike."""
    if error.filename is None:
        return f"{error.strerror}." if error.errno in FULL else str(error)
    path = Path(str(error.filename))
    if error.errno not in FULL and not _TEMPORARY.match(path.name):
        return str(error)
    folder = path.parent.absolute().name
    return f"the folder {folder!r} takes no more files ({error.strerror}): make room there, or give another."


def error_message(error: BaseException | None) -> str | None:
    """The one line of the error of ours behind `error`, or None if there is none."""
    ours = our_error(error)
    return None if ours is None else str(ours)


def end_errors_in_one_line() -> None:
    """Make an uncaught error of ours the last line of the output, without a traceback, with a non-zero exit."""
    if getattr(sys.excepthook, "__module__", None) == __name__:
        return
    usual = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        message = error_message(error)
        if isinstance(error, KeyboardInterrupt):
            line = "Interrupted."
        elif message is not None:
            line = f"Error: {message}"
        else:
            usual(kind, error, traceback)
            return
        sys.stdout.flush()
        sys.stderr.write(f"{line}\n")

    sys.excepthook = hook
    quiet_logs()


def quiet_logs() -> None:
    """Keep tracebacks of our own errors, and MONAI's dump of the data it was working on, out of the logs."""
    for handler in logging.getLogger().handlers:
        if not any(isinstance(f, _OneLineErrors) for f in handler.filters):
            handler.addFilter(_OneLineErrors())


class _OneLineErrors(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "=== Transform input info" in text or record.name == "DataStats":
            return False
        if "is terminating due to exception" in text:  # Ignite says so, in full, before the error itself is reported
            return False
        if record.exc_info and error_message(record.exc_info[1]) is not None:
            record.exc_info = record.exc_text = None
        from_worker = _WORKER_ERROR.findall(text)
        if from_worker:
            record.msg, record.args = from_worker[-1], ()
        elif "applying transform" in text and record.levelno >= logging.ERROR:
            return False
        return True
