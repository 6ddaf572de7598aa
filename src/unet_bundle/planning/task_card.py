"""The task card: what a person states about a data set and no program can find out."""

from dataclasses import dataclass, field
from typing import Any

from unet_bundle.planning.label_rules import BACKGROUND


@dataclass(frozen=True)
class TaskCard:
    """What a person states about a task; `load_card` fills what is left out from the data set's own description.

    Attributes:
        name: Short name of the bundle: letters, digits, ``_``, ``-`` and ``.``.
        title: What the bundle does, in a few words.
        description: A sentence or two for the bundle's metadata.
        authors: Who made the bundle.
        copyright: Copyright line of the bundle.
        data_source: Where the scans and labels come from, with the citation asked for.
        data_license: Terms of the scans and labels, as text.
        modality: One entry per image channel, such as ``"MRI"`` or ``"CT"``; ``[RGB]`` stands for red, green and blue.
        labels: Label name to voxel value; ``background`` is 0 and the values are consecutive.
        terms: Per label name a ``color`` ([r, g, b], 0 to 255) and coded terms ``{value, scheme, meaning}``.
        left_right_pairs: Pairs of labels that are the left and right of one organ.
        subject: How a case name gives the subject (see `unet_bundle.io.splits.subject_of`); None: each case is one.
            Of a BIDS data set it is the ``sub-`` entity if nothing else is stated.
        splits_file: An existing splits file in nnU-Net's form, instead of folds drawn here.
        image_files: Pattern of the image files, such as ``*/{case}.nii.gz``, or one for each channel, for data sets
            whose layout is not known (see `unet_bundle.io.survey_cases`).
        label_files: Pattern of the label files; stated with `image_files` or not at all.
        label_values: Per label name the values that label files have for it: whole numbers, ranges as text
            (``"1-65535"``) and, for one label at most, ``rest`` (see `unet_bundle.transforms.LabelValues`). None: label
            files hold the labels' own values.
        instances: Whether label files number single objects (cells, nodules), which results are to number, too; with
            `label_values` that say which numbers are which class.
        border_weight: For `instances`: how much more the loss counts on the borders between objects, by ``w0``,
            ``sigma`` (mm, or pixels of pictures) and ``balance`` of `unet_bundle.transforms.BorderWeightd`; what is not
            stated is as in `BORDER_WEIGHT`. None: all voxels count alike.
        ignore: Value of label files where nobody labelled: such voxels count neither in training nor in scores.
        regions: Region name to label values, for regions that overlap: they are learnt and scored instead of the
            labels, and painted in this order into a label map of the labels.
        surface_tolerance: Distance in mm within which two surfaces agree, for the surface Dice: one for all labels or
            regions, or by name (the others have 1 mm).
        folds: Number of cross-validation folds.
        seed: Seed of the folds and of training.
        overrides: Values of the plan by name that take the place of the planned ones.
        version: Version of the bundle, ``major.minor.patch``.
        changelog: Version to what changed in it; holds `version`.
    """

    name: str
    title: str
    description: str
    authors: str
    copyright: str
    data_source: str
    data_license: str
    modality: list[str]
    labels: dict[str, int]
    terms: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_right_pairs: list[list[str]] = field(default_factory=list)
    subject: str | None = None
    splits_file: str | None = None
    image_files: str | list[str] | None = None
    label_files: str | None = None
    label_values: dict[str, list[int | str]] | None = None
    ignore: int | None = None
    regions: dict[str, list[int]] | None = None
    instances: bool = False
    border_weight: dict[str, Any] | None = None
    surface_tolerance: float | dict[str, float] = 1.0
    folds: int = 5
    seed: int = 0
    overrides: dict[str, Any] = field(default_factory=dict)
    version: str = "0.1.0"
    changelog: dict[str, str] = field(default_factory=dict)

    def segments(self) -> dict[str, dict[str, Any]]:
        """Value, colour and coded terms of each label but the background, in the order of the values."""
        names = sorted((name for name in self.labels if name != BACKGROUND), key=lambda name: self.labels[name])
        return {name: {"value": self.labels[name], **self.terms.get(name, {})} for name in names}

    def class_values(self) -> list[list[int | str]] | None:
        """`label_values` in the order of the classes, as `unet_bundle.transforms.MergeLabelsd` takes them.

        The value to be ignored, if there is one, comes last, as if it were one class more: `ignore_index`.
        """
        names = sorted(self.labels, key=lambda name: self.labels[name])
        if self.ignore is None:
            return None if self.label_values is None else [self.label_values.get(name, []) for name in names]
        stated = {name: [self.labels[name]] for name in names} if self.label_values is None else self.label_values
        return [*(list(stated.get(name, [])) for name in names), [self.ignore]]

    @property
    def ignore_index(self) -> int | None:
        """What becomes of the value to be ignored when label files are read; None if there is none."""
        return None if self.ignore is None else len(self.labels)

    def targets(self) -> list[str]:
        """Names of what is learnt and scored: the regions, or else the labels but the background."""
        return [*self.segments()] if self.regions is None else [*self.regions]
