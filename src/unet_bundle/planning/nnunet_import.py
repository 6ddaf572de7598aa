"""A trained model folder of nnU-Net v2 as a bundle that runs without nnU-Net.

Axes are the other way round there: nnU-Net sees arrays as SimpleITK gives them, with the file's last axis first, and
then in the order of the plans' ``transpose_forward``. Weights, windows and spacing are turned once, here; scans stay as
they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unet_bundle.errors import ConfigError
from unet_bundle.io import ARTIFICIAL_INTELLIGENCE
from unet_bundle.io.files import replacing
from unet_bundle.io.planes import RGB
from unet_bundle.planning.bundle import LOGGING_CONF, bundle_license, metadata, to_json, write_bundle
from unet_bundle.planning.label_rules import BACKGROUND
from unet_bundle.planning.model import Model
from unet_bundle.planning.nnunet_import_docs import imported_readme
from unet_bundle.planning.nnunet_import_folder import BATCH_NORM_TRAINER, NnunetFolder, needed
from unet_bundle.planning.nnunet_import_network import our_weights, unet_arguments
from unet_bundle.planning.task_card import TaskCard
from unet_bundle.planning.template.nnunet import nnunet_configs

ORIENTATIONS: Mapping[str, str | None] = {
    "SimpleITKIO": None,
    "NibabelIO": None,
    "NaturalImage2DIO": None,
    "SimpleITKIOWithReorient": "RAS",
    "NibabelIOWithReorient": "RAS",
}
"""Axes that nnU-Net's readers bring scans to; None: those that files have."""

PICTURES = "NaturalImage2DIO"
RESAMPLING = "resample_data_or_seg_to_shape"
SCHEMES = {
    "ZScoreNormalization": "zscore",
    "RescaleTo01Normalization": "range",
    "RGBTo01Normalization": "bytes",
    "NoNormalization": "none",
}
CT = {"lower": "percentile_00_5", "upper": "percentile_99_5", "mean": "mean", "std": "std"}
_AXES = str.maketrans("RAI", "LPS")
COLOURS = (("r", "g", "b"), RGB, ("rgb_to_0_1",) * 3)


@dataclass(frozen=True)
class ImportedModel:
    """What is written as a bundle.

    Attributes:
        model: for the configs.
        card: for metadata and documentation.
        weights: of each fold, as our network has them.
        regions: value in the label map of each region; empty for classes.
        outputs: what each channel of the logits stands for.
        origin: where it comes from, by name: names of things to text.
    """

    model: Model
    card: TaskCard
    weights: list[dict[str, torch.Tensor]]
    regions: list[int]
    outputs: list[str]
    origin: dict[str, str]

    @property
    def weight_files(self) -> list[str]:
        """Files of the weights in the bundle; hosts that know no ensembles take the first."""
        return ["models/model.pt", *(f"models/model_{number}.pt" for number in range(1, len(self.weights)))]


def import_model(source: NnunetFolder, orientation: str | None = None) -> ImportedModel:
    """Translate a model of nnU-Net.

    Args:
        source: what its folder holds.
        orientation: axes that scans have to be brought to, such as ``"LPS"``, where all scans it was trained on had
            these; None: as nnU-Net's reader does, which mostly leaves them as they are.

    Raises:
        ConfigError: it does something that is not known here.
        CheckpointError: the weights are not those of the network that the plans state.
    """
    plans, configuration = source.plans, source.configuration
    _check_known(plans, configuration)
    reader = plans.get("image_reader_writer", "SimpleITKIO")
    if reader not in ORIENTATIONS:
        raise ConfigError(f"the reader {reader!r} is not known: {', '.join(ORIENTATIONS)} can be imported")
    if orientation is not None and sorted(orientation.translate(_AXES)) != ["L", "P", "S"]:
        raise ConfigError(f"orientation {orientation!r} must be three letters, one of L R, one of P A, one of S I")
    pictures = reader == PICTURES
    own = [2 - int(axis) for axis in plans.get("transpose_forward", (0, 1, 2))]
    if sorted(own) != [0, 1, 2] or (pictures and own[0] != 2):
        raise ConfigError(f"transpose_forward {plans['transpose_forward']} of plans.json is not known for {reader}")
    patch = needed(configuration, "patch_size", source.configuration_name)
    spacing = [float(edge) for edge in needed(configuration, "spacing", source.configuration_name)]
    if len(patch) != len(spacing) or len(patch) not in (2, 3):
        raise ConfigError(f"patch_size {patch} and spacing {spacing} of plans.json do not go together")
    seen = own[3 - len(patch) :]  # the file's axis along each of the network's; slices are taken across the first
    order = sorted(range(len(seen)), key=lambda axis: seen[axis])
    by_axis: dict[int, float | None] = dict(zip(seen, spacing, strict=True))

    labels, regions, outputs = _labels(source.dataset)
    modality = _modality(source.dataset, pictures=pictures)
    network = unet_arguments(
        needed(configuration, "architecture", source.configuration_name), order, len(modality), len(outputs)
    )
    if source.trainer == BATCH_NORM_TRAINER:
        network["norm"] = "batch"
    name = str(plans.get("dataset_name") or "nnunet_model")
    card = _card(name, source, modality, labels)
    model = Model(
        name=card.name,
        spatial_dims=len(patch),
        in_channels=len(modality),
        modality=modality,
        labels=labels,
        slice_axis=own[0] if len(patch) == 2 and not pictures else None,
        spacing=[by_axis.get(axis) for axis in range(2 if pictures else 3)],
        orientation=orientation or ORIENTATIONS[reader],
        patch_size=[int(patch[axis]) for axis in order],
        network=network,
        normalization=_normalization(plans, configuration, len(modality)),
        mirror_axes=sorted(seen[axis] for axis in source.mirror_axes),
        overlap=0.5,
        segments=card.segments(),
        algorithm={"name": card.title, "version": card.version, "family": ARTIFICIAL_INTELLIGENCE},
        unit="pixels" if pictures else "mm",
    )
    weights = [
        our_weights(state, network, order, f"fold_{fold}/{source.checkpoint}")
        for fold, state in zip(source.folds, source.weights, strict=True)
    ]
    return ImportedModel(model, card, weights, regions, outputs, _origin(source, reader))


def imported_files(imported: ImportedModel) -> dict[str, str]:
    """Every text file of the bundle by its path in the folder; pure, the same bytes for the same model."""
    model, card = imported.model, imported.card
    ensemble = imported.weight_files if len(imported.weights) > 1 else []
    meta = metadata(model, card)
    meta["network_data_format"]["outputs"]["pred"] |= {
        "num_channels": len(imported.outputs),
        "channel_def": {str(number): name for number, name in enumerate(imported.outputs)},
    }
    configs = nnunet_configs(model, ensemble, imported.regions)
    return {
        **{f"configs/{name}": to_json(config) for name, config in configs.items()},
        "configs/metadata.json": to_json(meta),
        "configs/logging.conf": LOGGING_CONF,
        "docs/README.md": imported_readme(model, card, imported.origin, imported.regions, ensemble),
        "docs/data_license.txt": f"{card.data_license}\n",
        "LICENSE": bundle_license(),
    }


def write_imported(imported: ImportedModel, output: Path) -> None:
    """Write the bundle, its weights in float32 as they were.

    Raises:
        ConfigError: `output` holds something else.
    """
    write_bundle(imported_files(imported), output)
    for file, weights in zip(imported.weight_files, imported.weights, strict=True):
        with replacing(output / file) as temporary:
            torch.save(weights, temporary)


def _check_known(plans: Mapping[str, Any], configuration: Mapping[str, Any]) -> None:
    """Refuse ways of preparing scans and reading answers that are not those of nnU-Net's defaults."""
    for key, known in (("preprocessor_name", "DefaultPreprocessor"), ("label_manager", "LabelManager")):
        stated = configuration.get(key, plans.get(key, known))
        if stated != known:
            raise ConfigError(f"{key} is {stated!r} in plans.json, which is not known: only {known} can be imported")
    for kind, order in (("data", 3), ("probabilities", 1)):
        function = configuration.get(f"resampling_fn_{kind}", RESAMPLING)
        options = configuration.get(f"resampling_fn_{kind}_kwargs") or {"order": order, "force_separate_z": None}
        usual = {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}
        if function != RESAMPLING or {**usual, **options} != usual:
            raise ConfigError(
                f"resampling_fn_{kind} of plans.json is {function} with {options}, which is not known: only"
                f" {RESAMPLING} with order {order} can be imported"
            )


def _modality(dataset: Mapping[str, Any], *, pictures: bool) -> list[str]:
    """Name of each channel."""
    stated = dataset.get("channel_names", dataset.get("modality"))
    if not isinstance(stated, Mapping) or not stated:
        raise ConfigError("dataset.json has no channel_names: give a model folder as nnU-Net v2 wrote it")
    names = [str(stated[key]) for key in sorted(stated, key=int)]
    if pictures and tuple(name.strip().lower() for name in names) in COLOURS:
        return list(RGB)
    return names


def _normalization(plans: Mapping[str, Any], configuration: Mapping[str, Any], channels: int) -> list[dict[str, Any]]:
    """A scheme for each channel."""
    stated = needed(configuration, "normalization_schemes", "plans.json")
    masks = configuration.get("use_mask_for_norm") or [False] * channels
    if len(stated) != channels or len(masks) != channels:
        raise ConfigError(f"plans.json has {len(stated)} normalisations for {channels} channels")
    measured = plans.get(
        "foreground_intensity_properties_per_channel", plans.get("foreground_intensity_properties_by_modality", {})
    )
    schemes: list[dict[str, Any]] = []
    for channel, (name, masked) in enumerate(zip(stated, masks, strict=True)):
        if name == "CTNormalization":
            values = needed(measured, str(channel), "the intensities in plans.json")
            numbers = {key: float(needed(values, there, "the intensities in plans.json")) for key, there in CT.items()}
            schemes.append({"scheme": "ct", **numbers})
        elif name in SCHEMES:
            schemes.append({"scheme": "zscore_nonzero" if masked and name == "ZScoreNormalization" else SCHEMES[name]})
        else:
            raise ConfigError(
                f"the normalisation {name!r} is not known: CTNormalization, {', '.join(SCHEMES)} can be imported"
            )
    return schemes


def _labels(dataset: Mapping[str, Any]) -> tuple[dict[str, int], list[int], list[str]]:
    """Value of each name in label maps; value of each region, if the network was trained on such; its outputs."""
    stated = {name: value for name, value in needed(dataset, "labels", "dataset.json").items() if name != "ignore"}
    spelled = {
        name: [int(v) for v in (value if isinstance(value, list) else [value])] for name, value in stated.items()
    }
    if any(len(values) > 1 for values in spelled.values()):
        names = [name for name, values in spelled.items() if set(values) != {0}]
        order = [int(value) for value in dataset.get("regions_class_order") or ()]
        if len(order) != len(names) or len({0, *order}) != len(order) + 1:
            raise ConfigError(f"regions_class_order {order} of dataset.json must give each of {names} a value above 0")
        labels = {_visible(name, names[number + 1 :], spelled): order[number] for number, name in enumerate(names)}
        return {BACKGROUND: 0, **dict(sorted(labels.items(), key=lambda item: item[1]))}, order, names
    labels = dict(sorted(((name, values[0]) for name, values in spelled.items()), key=lambda item: item[1]))
    if list(labels.values()) != list(range(len(labels))) or next(iter(labels), None) != BACKGROUND:
        raise ConfigError(f"labels {labels} of dataset.json must be whole numbers from background: 0 on, none left out")
    return labels, [], list(labels)


def _visible(name: str, later: Sequence[str], values: Mapping[str, Sequence[int]]) -> str:
    """What a region is called in a label map, where later ones hide what they share with it."""
    hiding = [other for other in later if set(values[other]) & set(values[name])]
    return f"{name} without {', '.join(hiding)}" if hiding else name


def _card(name: str, source: NnunetFolder, modality: list[str], labels: dict[str, int]) -> TaskCard:
    title = re.sub(r"^Dataset\d+_", "", name)
    return TaskCard(
        name=re.sub(r"[^A-Za-z0-9_.-]", "_", title),
        title=f"{title} (nnU-Net)",
        description=(
            f"A model of nnU-Net v2 ({source.configuration_name}) for {title}, imported so that it runs without"
            " nnU-Net."
        ),
        authors="The makers of the nnU-Net model",
        copyright="Of the weights: as their makers state",
        data_source=str(source.dataset.get("reference") or f"nnU-Net data set {name}"),
        data_license=(
            "The model folder states these terms of the data: "
            f"{source.dataset.get('licence') or source.dataset.get('license') or 'none'}. Ask the makers of the model."
        ),
        modality=modality,
        labels=labels,
        changelog={"0.1.0": "Imported from nnU-Net"},
    )


def _origin(source: NnunetFolder, reader: str) -> dict[str, str]:
    """Names of what the model was made by; no paths."""
    return {
        "data set": str(source.plans.get("dataset_name", "not stated")),
        "plans": str(source.plans.get("plans_name", "not stated")),
        "configuration": source.configuration_name,
        "trainer": source.trainer,
        "folds": ", ".join(source.folds),
        "checkpoint": source.checkpoint,
        "reader": reader,
    }
