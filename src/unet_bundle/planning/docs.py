"""The bundle's own documentation: what it does, why it is set up so, and the commands that run it."""

import json
from collections.abc import Mapping
from typing import Any

from unet_bundle.planning.label_rules import BACKGROUND
from unet_bundle.planning.plan import Plan
from unet_bundle.planning.task_card import TaskCard

NOTICE = (
    "Research software. Not a medical device: not tested, cleared or meant for diagnosis, treatment or any decision "
    "about a patient."
)

NOT_TRAINED = "Not trained yet."

CITATIONS = """\
- U-Net: Ronneberger et al. 2015, <https://arxiv.org/abs/1505.04597>
- 3D U-Net: Çiçek et al. 2016, <https://arxiv.org/abs/1606.06650>
- The rules of the plan: nnU-Net, Isensee et al. 2021, Nature Methods 18:203, <https://doi.org/10.1038/s41592-020-01008-z>
- The bundle format and its command line: MONAI, <https://docs.monai.io/en/stable/bundle_intro.html>"""

_CHOICES = (
    "configuration", "orientation", "spacing", "normalization", "patch_size", "network.channels", "network.strides",
    "network.kernel_sizes", "network.encoder", "network.convolutions_per_stage",
    "network.decoder_convolutions_per_stage", "network.norm", "network.activation", "network.dropout",
    "network.deep_supervision", "batch_size", "mirror_axes", "elastic_prob", "elastic_sd",
    "elastic_spacing", "foreground_fraction", "channel_dropout", "border_weight", "overlap", "learning_rate",
    "iterations_per_epoch", "max_epochs", "val_interval", "num_workers",
)  # fmt: skip


def bundle_readme(
    plan: Plan, fingerprint: Mapping[str, Any], card: TaskCard, scores: Mapping[str, Any] | None = None
) -> str:
    """The text of the bundle's ``docs/README.md``; pure, the same bytes every time.

    Args:
        plan: The plan the bundle was written from.
        fingerprint: The measures it was planned with.
        card: The task card.
        scores: The content of an evaluation's ``scores.json``; a further key ``remarks`` may map names (fold, training
            time, machine, seed) to text. None for a bundle without weights.

    Returns:
        Markdown.
    """
    sections = [
        f"# {card.title}\n\n{card.description}\n\n**{NOTICE}**",
        _labels(plan, fingerprint, card),
        _data(plan, fingerprint, card),
        _choices(plan),
        _commands(plan),
        _overrides(plan),
        _scores(plan, scores),
        _attribution(card),
    ]
    return "\n\n".join(sections) + "\n"


def data_license(card: TaskCard) -> str:
    """The text of the bundle's ``docs/data_license.txt``: source and terms of the scans and labels."""
    return (
        "Scans and labels that this bundle was planned for and trained on\n\n"
        f"Source: {card.data_source.strip()}\n\n{card.data_license.strip()}\n"
    )


def _labels(plan: Plan, fingerprint: Mapping[str, Any], card: TaskCard) -> str:
    rows = []
    for name, value in plan.labels.items():
        if name == BACKGROUND:
            continue
        measured, terms = fingerprint["labels"][name], card.terms.get(name, {})
        codes = "; ".join(
            f"{terms[key]['meaning']} ({terms[key]['scheme']} {terms[key]['value']})"
            for key in ("type", "type_modifier", "region", "region_modifier")
            if key in terms
        )
        # The fingerprint counts a pixel as 1 mm thick.
        size = f"{measured['ml'] * 1000:g}" if _pictures(plan) else f"{measured['ml']:g}"
        rows.append([str(value), name, size, str(measured["cases"]), codes or "-"])
    return (
        f"## What it segments\n\nInput: {_plural(plan.in_channels, 'channel')} ({', '.join(plan.modality)}). "
        f"Output: one label map on the {_image(plan)}'s own grid, 0 for background.\n\n"
        + markdown_table(
            ["value", "label", f"median {'pixels' if _pictures(plan) else 'ml'}", "in cases", "coded terms"], rows
        )
        + _regions(plan)
        + _objects(plan)
    )


def _regions(plan: Plan) -> str:
    if plan.regions is None:
        return ""
    rows = [[name, ", ".join(map(str, values))] for name, values in plan.regions.items()]
    return (
        "\n\nThe network learnt regions that may overlap, each by itself; in this order they are painted into the "
        "label map. `--region_channels True` writes them as they are, a channel each. Scores are those of the regions."
        "\n\n" + markdown_table(["region", "values"], rows)
    )


def _objects(plan: Plan) -> str:
    if not plan.instances:
        return ""
    ending = "png" if _pictures(plan) else "nii.gz"
    return (
        "\n\nSingle objects are told apart. In training a seam of background is opened between objects that touch; in "
        "a result the objects of a class are those that hang together, the seam is closed again, and "
        f"`<name>_instances.{ending}` has a number for each."
    )


def _data(plan: Plan, fingerprint: Mapping[str, Any], card: TaskCard) -> str:
    cases = fingerprint["cases"]
    sizes = " x ".join(_range(axis) for axis in zip(*cases["shapes"], strict=True))
    spacings = " x ".join(_range(axis) for axis in zip(*cases["spacings"], strict=True))
    if plan.splits_file is not None:
        folds = f"The folds are those of `{plan.splits_file}`."
    else:
        key = "Each case counts as a subject of its own"
        if plan.subject_key is not None:
            key = f"`{plan.subject_key}` of a case's name gives the subject"
        folds = f"{plan.folds} folds are drawn by subject with seed {plan.seed}. {key}; no subject is in two folds."
    grids = f"{sizes} voxels of {spacings} mm (axes right, anterior, superior)"
    if _pictures(plan):
        grids = f"{sizes} pixels (width, height)"
    sparse = ""
    if "ignored" in fingerprint:
        sparse = (
            f" {100 * fingerprint['ignored']:.3g} % of the voxels are unlabelled: they count neither in training nor "
            "in scores, and the volumes above are those of the labelled part."
        )
    return (
        f"## Data\n\n{_plural(fingerprint['num_cases'], f'labelled {_image(plan)}')} of "
        f"{_plural(fingerprint['num_subjects'], 'subject')}, {grids}.{sparse} {folds}\n\n"
        f"Source: {card.data_source.strip().rstrip('.')}. Terms: see `data_license.txt`."
    )


def _choices(plan: Plan) -> str:
    values = {name: getattr(plan, name) for name in _CHOICES if not name.startswith("network.")}
    values |= {f"network.{name}": value for name, value in plan.network.items()}
    named = [name for name in _CHOICES if name in plan.reasons]
    named += [name for name in plan.reasons if name.startswith("network.") and name not in named]
    rows = [[f"`{name}`", f"`{json.dumps(values[name], ensure_ascii=False)}`", plan.reasons[name]] for name in named]
    rows.append(["memory of a training step", f"{plan.memory_bytes / 1024**3:.2f} GiB", plan.reasons["memory_bytes"]])
    return (
        f"## Why it is set up so\n\nPlanned for memory target `{plan.memory_target}`; the median {_image(plan)} has "
        f"{' x '.join(map(str, plan.median_shape))} {'pixels' if _pictures(plan) else 'voxels at the target spacing'}."
        "\n\n" + markdown_table(["choice", "value", "reason"], rows) + _advice(plan)
    )


def _advice(plan: Plan) -> str:
    if plan.configuration == "2d":
        axis = ("right to left", "anterior to posterior", "superior to inferior")[plan.slice_axis or 0]
        return (
            f"\n\nThe network is two-dimensional: it sees one slice at a time, of the stack from {axis}. Scans go in "
            "and label maps come out as volumes."
        )
    if plan.advice is None:
        return ""
    return (
        f"\n\nLow resolution is advisable: {plan.advice}. Plan another bundle with `unet-bundle plan --configuration "
        "low`, or with `configuration: low` under `overrides` in the task card, and keep the one that scores better."
    )


def _commands(plan: Plan) -> str:
    images, suffix = ("PNG or TIFF pictures", ".png") if _pictures(plan) else ("NIfTI files", ".nii.gz")
    run = "python -m monai.bundle run --config_file"
    files = "--meta_file configs/metadata.json --config_file configs/inference.json"
    on_data = "--bundle_root . --dataset_dir DATASET"
    evaluate = "\"['configs/inference.json','configs/evaluate.json']\""
    multi_gpu = "\"['configs/train.json','configs/multi_gpu_train.json']\""
    trt = "\"['configs/inference.json','configs/inference_trt.json']\""
    export = "--net_id network_def --ckpt_file models/model.pt"
    cleaning = """\
With `--choose_cleaning True` that also finds out whether dropping small objects or filling holes raises the Dice of a
class, and writes what does to `OUT/cleaning.json`, as values for `configs/inference.json`. `unet-bundle evaluate
--choose-cleaning --write` puts them there.

"""
    if plan.ignore_index is not None or plan.regions is not None:
        cleaning = ""
    return f"""\
## Commands

Run from the bundle's folder, with `unet-bundle` installed. `DATASET` is a folder of labelled {_image(plan)}s, `SCANS` a
folder of {images}, `OUT` a folder to write to.

Train on all folds but one (the best model goes to `models/model.pt`):

    {run} configs/train.json {on_data} --fold 0

The same on several GPUs of one machine, here two:

    torchrun --standalone --nproc_per_node=2 -m monai.bundle run --config_file {multi_gpu} {on_data}

Score the fold that was kept back, on the untouched label files:

    {run} {evaluate} {on_data} --output_dir OUT --fold 0

{cleaning}Segment {_image(plan)}s, each to `OUT/<name>_seg{suffix}` on its own grid:

    {run} configs/inference.json --bundle_root . --dataset_dir SCANS --output_dir OUT

Export to TorchScript and ONNX:

    python -m monai.bundle ckpt_export {export} --filepath models/model.ts {files}
    python -m monai.bundle onnx_export {export} --filepath models/model.onnx {files}

Export to another runtime, compared with PyTorch on a scan, and segment by it (`--to` torchscript, torch-export, onnx,
openvino or tensorrt; for TensorRT there is `configs/inference_trt.json`):

    unet-bundle export . --to onnx --check SCAN
    {run} configs/inference.json --bundle_root . --dataset_dir SCANS --output_dir OUT --runtime models/model.onnx
    unet-bundle export . --to tensorrt --check SCAN
    {run} {trt} --bundle_root . --dataset_dir SCANS --output_dir OUT

Verify the metadata (the schema is downloaded unless the file is there) and the network's input and output:

    python -m monai.bundle verify_metadata --meta_file configs/metadata.json --filepath metadata_schema.json
    python -m monai.bundle verify_net_in_out --net_id network_def {files}"""


def _overrides(plan: Plan) -> str:
    run = "python -m monai.bundle run --config_file configs/train.json --bundle_root . --dataset_dir DATASET"
    return f"""\
## Change a value

Every top-level value of a config can be given on the command line; nested ones with `::` between the keys:

    {run} --max_epochs {max(plan.max_epochs // 2, 1)} --learning_rate {plan.learning_rate / 2:g}
    {run} --network_def::dropout 0.1

A key that the bundle does not know is refused. To keep a change, state it under `overrides` in the task card and plan
again; what depends on it (patch, stages, batch) follows:

    overrides:
      batch_size: {plan.batch_size + 2}
      network: {{dropout: 0.1}}"""


def _scores(plan: Plan, scores: Mapping[str, Any] | None) -> str:
    if scores is None:
        return f"## Scores\n\n{NOT_TRAINED}"
    rows = [[name, _score(value)] for name, value in scores["classes"].items()]
    rows.append(["mean", _score(scores["mean"])])
    remarks = "".join(f"\n- {name}: {text}" for name, text in scores.get("remarks", {}).items())
    return (
        f"## Scores\n\nDice on the {_image(plan)}s' own grid, mean over {_plural(len(scores['cases']), 'case')}.\n\n"
        + markdown_table(["label", "Dice"], rows)
        + (f"\n{remarks}" if remarks else "")
    )


def _attribution(card: TaskCard) -> str:
    return f"""\
## Attribution

Authors: {card.authors.strip().rstrip(".")}. {card.copyright.strip().rstrip(".")}.

{CITATIONS}"""


def _pictures(plan: Plan) -> bool:
    return plan.unit == "pixels"


def _image(plan: Plan) -> str:
    return "picture" if _pictures(plan) else "scan"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _range(values: tuple[float, ...]) -> str:
    low, high = min(values), max(values)
    return f"{low:g}" if low == high else f"{low:g}..{high:g}"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
