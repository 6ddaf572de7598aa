"""Writing a plan as a bundle's folder: configs, metadata, documentation; the same bytes for the same plan."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unet_bundle.errors import ConfigError
from unet_bundle.io.files import write_text
from unet_bundle.planning.docs import bundle_readme, data_license
from unet_bundle.planning.model import Model
from unet_bundle.planning.plan import Plan
from unet_bundle.planning.task_card import TaskCard
from unet_bundle.planning.template import configs
from unet_bundle.planning.template.shared import SPLITS

METADATA_SCHEMA = "https://project-monai.github.io/public/schema/meta_schema_20240725.json"
LINE_LENGTH = 110
"""Lists and dictionaries that fit into a line of this length stand on one line in the configs."""

TESTED_VERSIONS = {"monai": "1.6.1", "torch": "2.13.0", "numpy": "2.4.6"}
"""What the bundle was tested with, as its metadata says; the same as in constraints.txt."""
REQUIRED_PACKAGES = {
    "psutil": "7.2.2",
    "pytorch-ignite": "0.5.5",
    "scipy": "1.17.1",
    "tensorboard": "2.21.0",
    "unet-bundle": "0.1.0",
}

READERS = {"mm": {"nibabel": "5.4.2"}, "pixels": {"pillow": "13.0.0", "tifffile": "2026.3.3"}}
"""What reads and writes the images, for volumes and planes in mm and for pictures."""

MEANING_OF_WEIGHTS = {
    "configs/inference.json": ("orientation", "spacing", "normalization", "network_def"),
    "configs/metadata.json": ("network_data_format",),
    "configs/train.json": ("label_values", "regions"),
}
"""What weights were trained for: with any of it changed they would give wrong answers, or none."""

LOGGING_CONF = """\
[loggers]
keys=root,ignite

[handlers]
keys=console

[formatters]
keys=line

[logger_root]
level=INFO
handlers=console

[logger_ignite]
level=WARNING
handlers=
qualname=ignite

[handler_console]
class=StreamHandler
level=INFO
formatter=line
args=(sys.stderr,)

[formatter_line]
format=%(asctime)s %(levelname)s %(message)s
datefmt=%H:%M:%S
"""


def metadata(plan: Model, card: TaskCard) -> dict[str, Any]:
    """``metadata.json``, after the schema of 2024-07-25, with one block more: colours and coded terms of the labels."""
    names = [name for name, _ in sorted(plan.labels.items(), key=lambda item: item[1])]
    found = names if plan.regions is None else [*plan.regions]
    shape = {"spatial_shape": plan.patch_size, "dtype": "float32", "is_patch_data": True}
    return {
        "schema": METADATA_SCHEMA,
        "version": card.version,
        "changelog": card.changelog,
        "monai_version": TESTED_VERSIONS["monai"],
        "pytorch_version": TESTED_VERSIONS["torch"],
        "numpy_version": TESTED_VERSIONS["numpy"],
        "required_packages_version": {**READERS[plan.unit], **REQUIRED_PACKAGES},
        "name": card.title,
        "task": f"Segmentation of {', '.join(card.targets())} in {' and '.join(plan.modality)}",
        "description": card.description,
        "authors": card.authors,
        "copyright": card.copyright,
        "data_source": card.data_source,
        "data_type": "nibabel" if plan.unit == "mm" else "png",
        "image_classes": ", ".join(f"channel {i}: {name}" for i, name in enumerate(plan.modality)),
        "label_classes": "one channel, the value of the class in each voxel",
        "pred_classes": f"{len(found)} channels, one logit map a {'class' if plan.regions is None else 'region'}",
        "intended_use": "Research only: not a medical device, not for diagnosis or treatment.",
        "label_terms": card.segments(),
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude" if plan.modality != ["CT"] else "hounsfield",
                    "num_channels": plan.in_channels,
                    **shape,
                    "value_range": [-10, 10],
                    "channel_def": {str(i): name for i, name in enumerate(plan.modality)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "image",
                    "format": "segmentation",
                    "num_channels": len(found),
                    **shape,
                    "value_range": [-100, 100],
                    "channel_def": {str(i): name for i, name in enumerate(found)},
                }
            },
        },
    }


def bundle_files(
    plan: Plan,
    fingerprint: Mapping[str, Any],
    card: TaskCard,
    scores: Mapping[str, Any] | None = None,
    splits: Sequence[Mapping[str, Any]] | None = None,
) -> dict[str, str]:
    """Every text file of the bundle by its path in the folder; pure: no clock, no environment.

    Args:
        plan: of the bundle.
        fingerprint: that it was planned from.
        card: that it was planned from.
        scores: ``scores.json`` of an evaluation, for the documentation.
        splits: content of the card's splits file (see `unet_bundle.io.splits.read_splits`), None if it names none.
    """
    files = {f"configs/{name}": to_json(config) for name, config in configs(plan).items()}
    files["configs/metadata.json"] = to_json(metadata(plan, card))
    files["configs/logging.conf"] = LOGGING_CONF
    if splits is not None:
        files[SPLITS] = to_json([dict(split) for split in splits])
    files["docs/README.md"] = bundle_readme(plan, fingerprint, card, scores)
    files["docs/data_license.txt"] = data_license(card)
    files["LICENSE"] = bundle_license()
    return files


def write_bundle(files: Mapping[str, str], output: Path) -> None:
    """Write the files of a bundle; one that is there keeps its weights and runs.

    Args:
        files: as `bundle_files` gives them.
        output: the bundle's folder.

    Raises:
        ConfigError: `output` holds something that is not a bundle of ours.
    """
    if output.exists() and not output.is_dir():
        raise ConfigError(f"{output} is a file: give the folder the bundle goes to.")
    if output.is_dir() and any(output.iterdir()) and not _is_ours(output):
        raise ConfigError(f"{output} is not empty and not a bundle of unet-bundle: give a new or an empty folder.")
    _check_weights_stay_right(files, output)
    # metadata.json last: it says that the folder is a bundle.
    for name in sorted(files, key=lambda name: name == "configs/metadata.json"):
        write_text(output / name, files[name])
    if SPLITS not in files:
        (output / SPLITS).unlink(missing_ok=True)
    (output / "models").mkdir(exist_ok=True)


def _check_weights_stay_right(files: Mapping[str, str], output: Path) -> None:
    """Refuse a plan that would feed the weights of an earlier one otherwise, or read their answer otherwise."""
    if not (output / "models" / "model.pt").is_file() and not any((output / "runs").glob("*/*.pt")):
        return
    for name, keys in MEANING_OF_WEIGHTS.items():
        try:
            before = json.loads((output / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        now = json.loads(files[name])
        changed = [key for key in keys if before.get(key) != now.get(key)]
        if changed:
            raise ConfigError(
                f"{output} holds weights of another plan ({', '.join(changed)} in {name} would change): give a new"
                " folder, or move its models/ and runs/ away."
            )


def _is_ours(folder: Path) -> bool:
    try:
        found = json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))
        return "unet-bundle" in found["required_packages_version"]
    except (OSError, ValueError, KeyError, TypeError):
        return False


def to_json(value: Any) -> str:
    """JSON as a person reads it: four spaces, and what fits into a line stands on one line."""
    return _format(value, "", 0) + "\n"


def _format(value: Any, indent: str, used: int) -> str:
    line = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, dict | list) or not value:
        return line
    nested = [*value.values()] if isinstance(value, dict) else value
    # A component or a config is easier to read with a line for each of its keys.
    flat = not any(isinstance(item, dict | list) for item in nested) or isinstance(value, list)
    is_component = (isinstance(value, dict) and len(value) > 2) or _holds_dict(value)
    if flat and not is_component and len(indent) + used + len(line) <= LINE_LENGTH:
        return line
    inner = indent + "    "
    if isinstance(value, dict):
        items = [f"{json.dumps(k)}: {_format(v, inner, len(json.dumps(k)) + 2)}" for k, v in value.items()]
        return "{\n" + ",\n".join(inner + item for item in items) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + _format(item, inner, 0) for item in value) + f"\n{indent}]"


def _holds_dict(value: Any) -> bool:
    nested = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(item, dict) or _holds_dict(item) for item in nested)


def bundle_license() -> str:
    """The license of a bundle's configs."""
    return (Path(__file__).parent / "bundle_license.txt").read_text(encoding="utf-8")
