"""What a bundle's configs for inference and evaluation are written from, whoever made the model."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model as inference needs it; lists have one entry per axis in the order of `orientation`.

    Attributes:
        name: Name of the bundle.
        spatial_dims: Axes of a patch and of the network, 2 or 3.
        in_channels: Image channels.
        modality: Modality of each channel.
        labels: Label name to voxel value, background included.
        slice_axis: The axis of the scans across which slices are taken; None for patches with all axes of the scans.
        spacing: Target spacing in mm, per axis of the scans; None leaves an axis as it is.
        orientation: Axes that scans are brought to; None: those that files have.
        patch_size: Voxels of a training patch and of the inference window.
        network: Arguments of `unet_bundle.networks.UNet`.
        normalization: One scheme per channel (see `unet_bundle.transforms.NormalizeChannelsd`).
        mirror_axes: Axes of the scans that augmentation mirrors.
        swapped_labels: Pairs of label values that change places where left and right are mirrored.
        overlap: Overlap of inference windows, as a share of the window.
        subject_key: How a case name gives the subject.
        splits_file: Base name of the existing splits the task card names, or None; the bundle gets a copy.
        folds: Number of folds.
        seed: Seed of folds and training.
        image_files: Patterns of the image files as the task card states them, or None for a known layout.
        label_files: Pattern of the label files, or None.
        surface_tolerance: Tolerance of the surface Dice in mm: of all labels, or by label name.
        label_values: For each class the values of the label files that become it, or None: they are the classes.
        ignore_index: What becomes of the value of label files where nobody labelled; None if there is none.
        regions: Region name to label values, if regions that overlap are learnt instead of labels.
        instances: Whether label files number single objects, and results do.
        border_weight: Arguments of `unet_bundle.transforms.BorderWeightd`, or None for a loss without weights.
        colors: Red, green and blue (0 to 255) by label name, of those the task card states.
        segments: Value, colour and coded terms of each label but the background, for formats of results that hold them.
        algorithm: Name, version and family (a coded term) of the model, for the same.
        unit: What `spacing` is counted in: ``"mm"``, or ``"pixels"`` of pictures (PNG, TIFF).
    """

    name: str
    spatial_dims: int
    in_channels: int
    modality: list[str]
    labels: dict[str, int]
    slice_axis: int | None
    spacing: list[float | None]
    orientation: str | None
    patch_size: list[int]
    network: dict[str, Any]
    normalization: list[dict[str, Any]]
    mirror_axes: list[int]
    swapped_labels: list[list[int]] = field(default_factory=list)
    overlap: float
    subject_key: str | None = None
    splits_file: str | None = None
    folds: int = 5
    seed: int = 0
    image_files: str | list[str] | None = None
    label_files: str | None = None
    surface_tolerance: float | dict[str, float] = 1.0
    label_values: list[list[int | str]] | None = None
    ignore_index: int | None = None
    regions: dict[str, list[int]] | None = None
    instances: bool = False
    border_weight: dict[str, Any] | None = None
    colors: dict[str, list[int]] = field(default_factory=dict)
    segments: dict[str, dict[str, Any]] = field(default_factory=dict)
    algorithm: dict[str, Any] = field(default_factory=dict)
    unit: str = "mm"
