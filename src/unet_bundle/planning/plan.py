"""The plan: every choice that turns a data set's fingerprint into a bundle, each with its reason."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet_bundle.errors import ConfigError
from unet_bundle.io import ARTIFICIAL_INTELLIGENCE, wanted_channels
from unet_bundle.planning.architecture import Architecture, network_reasons, plan_architecture, plan_batch_size
from unet_bundle.planning.augmentation import (
    ELASTIC_PROB,
    WHY_ELASTIC_PROB,
    check_mirror_axes,
    control_spacing,
    mirror_axes,
)
from unet_bundle.planning.configuration import Configuration, View, choose_view, length_unit
from unet_bundle.planning.fingerprint import FORMAT
from unet_bundle.planning.memory import training_memory_bytes
from unet_bundle.planning.model import Model
from unet_bundle.planning.overrides import SET_IN_CARD, Choices
from unet_bundle.planning.targets import TARGETS, MemoryTarget, in_gib
from unet_bundle.planning.task_card import TaskCard

WHY_NO_DROPOUT = "every scan has all channels; with 0.2 or so the network learns to do without one"


@dataclass(frozen=True, kw_only=True)
class Plan(Model):
    """Every value a bundle is written from; lists have one entry per axis in the order right, anterior, superior.

    Attributes:
        configuration: How the scans are looked at: ``"full"`` or ``"low"`` resolution, or ``"2d"``, slices of volumes.
        batch_size: Patches per step.
        elastic_prob: Share of training patches that are deformed elastically.
        elastic_sd: Standard deviation of the displacement of a control point, in `unit`.
        elastic_spacing: Distance of control points, in `unit`.
        foreground_fraction: Share of training patches centred on a labelled voxel.
        channel_dropout: Share of channels that training drops, each for itself; 0 for a single channel and for colours.
        iterations_per_epoch: Steps per epoch.
        max_epochs: Epochs.
        val_interval: Epochs from one validation to the next.
        learning_rate: Peak learning rate.
        num_workers: Processes that prepare batches in training.
        memory_target: The target that was planned for.
        memory_bytes: Forecast of a training step's peak memory, in bytes.
        median_shape: Median size of the scans at the target spacing, in voxels.
        reasons: Name of a choice (``network.strides`` for an argument of the network) to one sentence on why.
        advice: One sentence on a configuration that may be better, or None.
    """

    configuration: Configuration
    batch_size: int
    elastic_prob: float
    elastic_sd: float
    elastic_spacing: float
    foreground_fraction: float
    iterations_per_epoch: int
    max_epochs: int
    val_interval: int
    learning_rate: float
    num_workers: int
    memory_target: str
    memory_bytes: int
    median_shape: list[int]
    reasons: dict[str, str]
    channel_dropout: float = 0.0
    advice: str | None = None


def make_plan(
    fingerprint: Mapping[str, Any],
    card: TaskCard,
    memory: MemoryTarget = "cpu",
    configuration: Configuration | None = None,
) -> Plan:
    """Plan a bundle; a pure function, the same bytes every time.

    The rules are nnU-Net's (Isensee et al. 2021, Nature Methods 18:203); the memory is counted from the feature maps of
    the very network that is planned.

    Args:
        fingerprint: What `measure_fingerprint` returned.
        card: The task card; its overrides take the place of planned values, and what depends on them follows.
        memory: What to plan for: a workstation without a GPU, or a GPU's memory.
        configuration: Full or low resolution, or slices; None: the card's, or what the scans call for.

    Returns:
        The plan.

    Raises:
        ConfigError: If the memory target is unknown, the card does not fit the fingerprint, an override is unknown or
            contradicts another value, or not even the smallest patch fits the memory.
    """
    if memory not in TARGETS:
        raise ConfigError(f"memory target {memory!r} is unknown: it must be one of {', '.join(TARGETS)}")
    _check_fingerprint(fingerprint, card)
    target = TARGETS[memory]
    dims = int(fingerprint["spatial_dims"])
    choices = Choices(card, dims)
    unit = length_unit(fingerprint)

    channels = len(card.modality), len(card.labels) if card.regions is None else len(card.regions)

    def architect(spacing: Sequence[float], shape: Sequence[int]) -> Architecture:
        return plan_architecture(choices, target, channels, spacing, shape)

    view = choose_view(fingerprint, choices, configuration, architect)
    architecture, shape = view.architecture, view.shape
    check_mirror_axes(choices, view.slice_axis)
    _explain_view(choices, view)
    choices.explain_network(network_reasons(architecture, target, view.spacing_of_patch, unit))
    batch_size = choices.take(
        "batch_size", *plan_batch_size(architecture, target, shape, int(fingerprint["num_cases"]))
    )
    memory_bytes = training_memory_bytes(architecture.network, architecture.patch_size, batch_size, target.precision)
    choices.reasons["memory_bytes"] = (
        f"feature maps in {target.precision}, weights, gradients and AdamW's moments take {in_gib(memory_bytes)}; "
        f"{in_gib(target.budget)} are planned for {memory} ({target.why_budget})"
        + ("; this is more, so that steps are slow: set a smaller patch_size" if memory_bytes > target.budget else "")
    )
    if card.border_weight is not None:
        choices.reasons["border_weight"] = (
            f"{SET_IN_CARD}: the loss counts up to 1 + w0 on background between two objects, falling off over sigma "
            f"({unit}; Ronneberger et al. 2015)"
        )
    choices.reasons["orientation"] = "one orientation for all scans, so that an axis means the same in each"
    elastic_spacing = choices.take(
        "elastic_spacing",
        control_spacing(architecture.patch_size, view.spacing_of_patch),
        f"{unit}; half the patch's shortest edge: the U-Net's three points",
    )
    iterations = choices.take(
        "iterations_per_epoch", target.iterations_per_epoch, "steps between two points of the learning curve"
    )
    epochs = choices.take(
        "max_epochs", target.max_epochs, f"{target.max_epochs} x {iterations} steps: {target.why_schedule}"
    )
    interval = min(target.val_interval, epochs)
    has_own_channels = len(card.modality) > 1 and wanted_channels(card.modality) != "RGB"
    plan = Plan(
        name=card.name,
        spatial_dims=len(architecture.patch_size),
        in_channels=len(card.modality),
        modality=list(card.modality),
        labels=dict(sorted(card.labels.items(), key=lambda item: item[1])),
        configuration=view.configuration,
        slice_axis=view.slice_axis,
        spacing=view.spacing,
        orientation="RAS"[:dims],
        patch_size=architecture.patch_size,
        batch_size=batch_size,
        network=architecture.network,
        normalization=choices.take("normalization", *_normalization(fingerprint, card)),
        mirror_axes=choices.take("mirror_axes", *mirror_axes(card, dims, view.slice_axis)),
        swapped_labels=[[card.labels[name] for name in pair] for pair in card.left_right_pairs],
        elastic_prob=choices.take("elastic_prob", ELASTIC_PROB, WHY_ELASTIC_PROB),
        elastic_sd=choices.take(
            "elastic_sd", round(elastic_spacing / 8, 2), f"{unit}; an eighth of elastic_spacing, as in the 3D U-Net"
        ),
        elastic_spacing=elastic_spacing,
        foreground_fraction=choices.take(
            "foreground_fraction",
            0.33,
            "a third of the patches show an organ for sure; the others lie round background",
        ),
        overlap=choices.take(
            "overlap", 0.5, "windows half over each other, so that the weak border of one is the middle of the next"
        ),
        iterations_per_epoch=iterations,
        max_epochs=epochs,
        val_interval=choices.take(
            "val_interval", interval, f"beside {interval * iterations} steps a validation costs little"
        ),
        learning_rate=choices.take(
            "learning_rate", 0.001, "the usual peak for AdamW, with gradients clipped and a warm-up before it"
        ),
        num_workers=choices.take("num_workers", target.num_workers, target.why_workers),
        memory_target=memory,
        memory_bytes=memory_bytes,
        subject_key=card.subject,
        splits_file=None if card.splits_file is None else Path(card.splits_file).name,
        folds=card.folds,
        seed=card.seed,
        median_shape=shape,
        reasons=choices.reasons,
        image_files=card.image_files,
        label_files=card.label_files,
        surface_tolerance=card.surface_tolerance,
        label_values=card.class_values(),
        ignore_index=card.ignore_index,
        regions=card.regions,
        instances=card.instances,
        border_weight=card.border_weight,
        colors={name: terms["color"] for name, terms in card.terms.items() if terms.get("color") is not None},
        segments=card.segments(),
        algorithm={"name": card.title, "version": card.version, "family": ARTIFICIAL_INTELLIGENCE},
        advice=view.advice,
        unit=unit,
        channel_dropout=choices.take("channel_dropout", 0.0, WHY_NO_DROPOUT) if has_own_channels else 0.0,
    )
    if plan.val_interval > plan.max_epochs:
        raise ConfigError(
            f"val_interval {plan.val_interval} is more than max_epochs {plan.max_epochs}, so that no model would be "
            "scored: set a smaller val_interval under overrides in the task card"
        )
    return plan


def _check_fingerprint(fingerprint: Mapping[str, Any], card: TaskCard) -> None:
    if fingerprint.get("format") != FORMAT:
        raise ConfigError(
            f"the fingerprint has format {fingerprint.get('format')!r}, this version reads "
            f"{FORMAT}: measure the data set again"
        )
    if fingerprint["num_channels"] != len(card.modality):
        raise ConfigError(
            f"the fingerprint has {fingerprint['num_channels']} channels but the task card states {card.modality}: "
            "correct the card or measure the data set again"
        )
    if set(fingerprint["labels"]) != set(card.labels):
        raise ConfigError(
            f"the fingerprint has the labels {sorted(fingerprint['labels'])} but the task card {sorted(card.labels)}: "
            "correct the card or measure the data set again"
        )
    if ("ignored" in fingerprint) != (card.ignore is not None):
        raise ConfigError(
            f"the task card states {'no' if card.ignore is None else 'a'} value to be ignored, which the data set was"
            f" {'' if card.ignore is None else 'not '}measured with: correct the card or measure the data set again"
        )
    subjects = int(fingerprint["num_subjects"])
    if card.splits_file is None and subjects < card.folds:
        remedy = f"set 'folds: {subjects}' or less in the task card" if subjects > 1 else "add scans of other subjects"
        raise ConfigError(f"the data set has too few subjects ({subjects}) for {card.folds} folds: {remedy}")
    if card.subject is None and subjects != fingerprint["num_cases"]:
        raise ConfigError(
            f"the fingerprint has {fingerprint['num_cases']} cases of {subjects} subjects but the task card states no "
            "subject: state how a case's name gives it, or measure the data set again"
        )


def _explain_view(choices: Choices, view: View) -> None:
    choices.reasons["configuration"] = view.reason
    choices.take("spacing", view.spacing, view.spacing_reason)
    choices.take("patch_size", view.architecture.patch_size, view.architecture.why_patch)


def _normalization(fingerprint: Mapping[str, Any], card: TaskCard) -> tuple[list[dict[str, Any]], str]:
    if wanted_channels(card.modality) == "RGB":
        reason = (
            "mean 0 and deviation 1 per picture, over the three colours together: the brightness of pictures differs, "
            "while the relation of the colours tells what is what and stays"
        )
        return [{"scheme": "zscore_joint"}] * 3, reason
    schemes: list[dict[str, Any]] = []
    reasons = []
    for modality, statistics in zip(card.modality, fingerprint["intensities"], strict=True):
        if modality.strip().upper() == "CT":
            low, high = statistics["percentile_00_5"], statistics["percentile_99_5"]
            schemes.append(
                {"scheme": "ct", "lower": low, "upper": high, "mean": statistics["mean"], "std": statistics["std"]}
            )
            reasons.append(
                f"{modality}: Hounsfield units mean the same in every scan, clipped to the foreground's 0.5 and 99.5 "
                f"percentiles {low:g} and {high:g}"
            )
        else:
            schemes.append({"scheme": "zscore"})
            reasons.append(
                f"{modality}: the scale is arbitrary (foreground from {statistics['min']:g} to {statistics['max']:g} in"
                " all scans), so mean 0 and deviation 1 per image"
            )
    return schemes, "; ".join(reasons)
