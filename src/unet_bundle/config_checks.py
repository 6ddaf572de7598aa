"""What a run's configuration may hold: no key that has no effect, no value of another kind than the bundle's."""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import sys
from collections.abc import Collection, Iterator, Mapping
from pydoc import locate
from typing import Any

from unet_bundle.errors import ConfigError

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
        fits, kind = is_number and float(value).is_integer(), "a whole number"
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
