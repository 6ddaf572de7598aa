import inspect
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc import locate
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ComponentLocator, ConfigParser, ConfigWorkflow
from monai.bundle.reference_resolver import ReferenceResolver
from monai.transforms import Compose

from unet_bundle.config_checks import COMPONENT_KEYS, check_keys
from unet_bundle.errors import ConfigError
from unet_bundle.networks import UNet
from unet_bundle.planning.bundle import to_json
from unet_bundle.planning.plan import Plan, make_plan
from unet_bundle.planning.task_card import TaskCard
from unet_bundle.planning.template import configs
from unet_bundle.runtime import our_error

RUNS = {
    "train": ["train.json"],
    "train by torchrun": ["train.json", "multi_gpu_train.json"],
    "inference": ["inference.json"],
    "inference by TensorRT": ["inference.json", "inference_trt.json"],
    "evaluate": ["inference.json", "evaluate.json"],
    "evaluate by torchrun": ["inference.json", "evaluate.json", "multi_gpu_evaluate.json"],
}


def card(**changes: Any) -> TaskCard:
    values: dict[str, Any] = {
        "name": "test",
        "title": "Test",
        "description": "For a test",
        "authors": "nobody",
        "copyright": "none",
        "data_source": "none",
        "data_license": "none",
        "modality": ["MRI"],
        "labels": {"background": 0, "left": 1, "right": 2},
        "changelog": {"0.1.0": "First"},
    }
    return TaskCard(**{**values, **changes})


def fingerprint(spacing: list[float], shape: list[int], card: TaskCard) -> dict[str, Any]:
    statistics = {
        "percentile_00_5": -50.0, "percentile_99_5": 300.0, "mean": 100.0, "std": 40.0, "median": 90.0,
        "min": -100.0, "max": 500.0,
    }  # fmt: skip
    return {
        "format": 1,
        "spatial_dims": len(shape),
        "num_cases": 40,
        "num_subjects": 40,
        "num_channels": len(card.modality),
        "cases": {"shapes": [shape] * 40, "spacings": [spacing] * 40},
        "orientations": {"RAS": 40},
        "intensities": [statistics] * len(card.modality),
        "labels": {name: {"voxels": 1000, "ml": 1.0} for name in card.labels},
        **({} if card.ignore is None else {"ignored": 0.8}),
    }


def plan(kind: str) -> Plan:
    if kind == "2D":
        task, spacing, shape = card(), [1.0, 1.0], [256, 256]
    elif kind == "thick slices, CT and MR":
        task, spacing, shape = card(modality=["CT", "MRI"]), [0.8, 0.8, 5.0], [320, 320, 24]
    elif kind == "numbered objects in slices":
        values = {"left": ["1-99"], "right": ["100-199"]}
        weight = {"w0": 10.0, "sigma": 5.0, "balance": True}
        task = card(label_values=values, instances=True, border_weight=weight, overrides={"configuration": "2d"})
        spacing, shape = [0.8, 0.8, 5.0], [320, 320, 24]
    elif kind == "left and right":
        task, spacing, shape = card(left_right_pairs=[["left", "right"]]), [1.0, 1.0, 1.0], [96, 96, 96]
    elif kind == "sparse regions":
        regions = {"both": [1, 2], "right": [2]}
        task, spacing, shape = card(ignore=9, regions=regions), [1.0, 1.0, 1.0], [96, 96, 96]
    elif kind == "sparse slices":
        task = card(ignore=9, overrides={"configuration": "2d"})
        spacing, shape = [1.0, 1.0, 4.0], [96, 96, 30]
    else:
        task = card(labels={"background": 0, **{f"organ_{i}": i for i in range(1, 300)}})
        spacing, shape = [3.0, 3.0, 3.0], [64, 64, 64]
    return make_plan(fingerprint(spacing, shape, task), task, "24GB")


KINDS = (
    "2D", "thick slices, CT and MR", "left and right", "300 classes", "sparse regions", "sparse slices",
    "numbered objects in slices",
)  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def any_plan(request: pytest.FixtureRequest) -> Plan:
    """A plan of each kind."""
    return plan(request.param)


@pytest.fixture
def merged(tmp_path: Path) -> Callable[[Plan, list[str]], dict[str, Any]]:
    """A function that lays the files of a run over each other, as MONAI does."""

    def merge(plan: Plan, names: list[str]) -> dict[str, Any]:
        for name in names:
            (tmp_path / name).write_text(to_json(configs(plan)[name]), encoding="utf-8")
        content: dict[str, Any] = ConfigParser.load_config_files([str(tmp_path / name) for name in names])
        return content

    return merge


def walk(config: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every value with the id it has in MONAI."""
    yield path, config
    items = config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        yield from walk(value, f"{path}::{key}" if path else str(key))


def target_of(component: dict[str, Any]) -> Any:
    name = component["_target_"]
    module = ComponentLocator().get_component_module_name(name)
    return locate(f"{module[0] if isinstance(module, list) else module}.{name}" if module else name)


@pytest.mark.parametrize("names", RUNS.values(), ids=RUNS)
def test_every_component_exists_and_takes_its_arguments(names, any_plan, merged):
    components = [(path, value) for path, value in walk(merged(any_plan, names)) if "_target_" in ensure_dict(value)]
    assert len(components) > 10
    for path, component in components:
        target = target_of(component)
        assert callable(target), f"{path}: {component['_target_']} does not exist"
        arguments = {key: value for key, value in component.items() if key not in COMPONENT_KEYS}
        signature = inspect.signature(target)
        # What is given to another component to call gets its remaining arguments there.
        (signature.bind if component.get("_mode_", "default") == "default" else signature.bind_partial)(**arguments)


def ensure_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


@pytest.mark.parametrize("names", RUNS.values(), ids=RUNS)
def test_every_reference_leads_somewhere_and_every_knob_is_used(names, any_plan, merged):
    config = merged(any_plan, names)
    parser = ConfigParser(config)
    used: set[str] = set()
    for path, value in walk(config):
        if isinstance(value, str) and "@" in value:
            found = set(ReferenceResolver.match_refs_pattern(ReferenceResolver.normalize_id(value)))
            used |= found
            missing = [reference for reference in found if reference not in parser]
            assert not missing, f"{path} refers to {missing}"
    knobs = {key for key, value in config.items() if not isinstance(value, dict | list) or key in any_plan.reasons}
    unused = {k for k in knobs if not any(u == k or u.startswith(f"{k}::") for u in used)}
    assert not unused, "a value that nothing refers to has no effect"


@pytest.mark.parametrize("names", RUNS.values(), ids=RUNS)
def test_the_check_of_keys_accepts_the_bundles_own(names, any_plan, merged):
    config = merged(any_plan, names)
    check_keys(config, config)
    assert config["config_files"] == names


def test_hosts_find_a_dictionary_with_a_target_for_the_network_and_for_every_handler(any_plan):
    written = configs(any_plan)
    for name in ("train.json", "inference.json"):
        assert written[name]["network_def"]["_target_"] == "unet_bundle.networks.UNet"
        assert "dropout" in inspect.signature(UNet).parameters
        assert not any("_meta_" in str(value) for _, value in walk(written[name])), "hosts do not merge the metadata"
    assert written["train.json"]["network_def"] == written["inference.json"]["network_def"]
    for config in (written["train.json"]["train"], written["train.json"]["validate"], written["inference.json"]):
        assert all("_target_" in handler for handler in config["handlers"])


def test_what_a_client_of_a_label_server_sets_reaches_the_inferer(any_plan):
    parser = ConfigParser(configs(any_plan)["inference.json"])
    parser["displayable_configs"].update({"overlap": 0.125, "sw_batch_size": 3})  # as the server does
    parser.parse()
    inferer = parser.get_parsed_content("inferer")
    assert inferer.settings.overlap == 0.125
    assert inferer.sw_batch_size == 3


def test_the_device_may_be_a_name_as_hosts_and_command_lines_give_it(any_plan):
    parser = ConfigParser({**configs(any_plan)["train.json"], "device": "cpu"})
    assert parser.get_parsed_content("augment_on_device") is False
    parser["device"] = "cuda:0"
    assert parser.get_parsed_content("augment_on_device") is True


def test_training_and_inference_prepare_an_image_alike(any_plan):
    train, infer = configs(any_plan)["train.json"], configs(any_plan)["inference.json"]
    for key in ("orientation", "spacing", "normalization", "patch_size"):
        assert train[key] == infer[key]

    def of_the_image(component: dict[str, Any]) -> dict[str, Any]:
        first = {"keys", "channels", "mode"}  # how DICOM is read stands where DICOM is: training has files
        kept = {k: v for k, v in component.items() if k != "dicom"}
        return {k: (v[:1] if isinstance(v, list) else [v]) if k in first else v for k, v in kept.items()}

    transforms = [t for t in train["train"]["deterministic_transforms"] if "image" in t["keys"]]
    assert list(map(of_the_image, transforms)) == list(map(of_the_image, infer["preprocessing"]["transforms"]))


def test_the_network_takes_the_patch_and_gives_every_class(any_plan):
    parser = ConfigParser(configs(any_plan)["train.json"])
    definition = {**parser["network_def"], "channels": [4 for _ in any_plan.network["channels"]]}
    network = ConfigParser({"network": definition}).get_parsed_content("network").eval()
    with torch.no_grad():
        logits = network(torch.zeros(1, any_plan.in_channels, *any_plan.patch_size))
    outputs = any_plan.labels if any_plan.regions is None else any_plan.regions
    assert logits.shape == (1, len(outputs), *any_plan.patch_size)


def test_random_transforms_give_patches_of_the_plans_size(any_plan):
    parser = ConfigParser(configs(any_plan)["train.json"])
    transform = parser.get_parsed_content("train::random_transforms", instantiate=True)
    transform = Compose([parser.get_parsed_content(f"train::random_transforms::{i}") for i in range(len(transform))])
    shape = [size + 7 if axis == 0 else max(size - 5, 3) for axis, size in enumerate(any_plan.patch_size)]
    if any_plan.slice_axis is not None:
        shape.insert(any_plan.slice_axis, 5)
    label = torch.zeros(1, *shape)
    weights = {} if any_plan.border_weight is None else {"label_weight": label + 1.5}
    label[:, 1:3, 1:3] = 2
    for seed in range(4):
        transform.set_random_state(seed)
        item = transform({"image": torch.rand(any_plan.in_channels, *shape), "label": label, **weights})
        assert list(item["image"].shape) == [any_plan.in_channels, *any_plan.patch_size]
        assert list(item["label"].shape) == [1, *any_plan.patch_size]
        assert set(item["label"].unique().tolist()) <= {0.0, 2.0}, "a label is never blended"
        assert torch.isfinite(item["image"]).all()
        for key in weights:
            assert item[key].shape == item["label"].shape
            assert 1.49 <= item[key].max() <= 1.51
            assert not item["label"][item[key] == 0].any(), "no weight beyond the scan"


def test_left_and_right_change_places_where_the_card_wants_them_mirrored():
    task = card(left_right_pairs=[["left", "right"]], overrides={"mirror_axes": [0, 1, 2]})
    scan = [1.0, 1.0, 5.0], [96, 96, 24]
    spatial = configs(make_plan(fingerprint(*scan, task), task, "24GB"))["train.json"]["train"]["spatial"]
    assert spatial["flip_axes"] == [0, 1, 2]
    assert spatial["swapped_labels"] == [[1, 2]]
    assert max(spatial["rotate_range"]) == 30, "half a turn would bring left to right, and leave its label"


def patch_transform(kind: str) -> dict[str, Any]:
    return configs(plan(kind))["train.json"]["train"]["spatial"]


def test_left_and_right_are_never_mirrored_into_each_other():
    assert patch_transform("left and right")["flip_axes"] == [1, 2]
    assert patch_transform("thick slices, CT and MR")["flip_axes"] == [0, 1, 2]
    assert patch_transform("2D")["flip_axes"] == [0, 1]


def test_thick_slices_are_turned_in_their_plane_only():
    assert patch_transform("thick slices, CT and MR")["rotate_range"] == [0, 0, 180]
    assert patch_transform("left and right")["rotate_range"] == [30, 30, 30]
    assert patch_transform("2D")["rotate_range"] == [180]


def test_label_maps_have_room_for_every_class():
    assert '"dtype": "uint16"' in to_json(configs(plan("300 classes"))["inference.json"])
    assert '"dtype": "uint8"' in to_json(configs(plan("left and right"))["inference.json"])


def test_configs_are_pure(any_plan):
    first = {name: to_json(config) for name, config in configs(any_plan).items()}
    assert {name: to_json(config) for name, config in configs(any_plan).items()} == first
    assert all(json.loads(text) == configs(any_plan)[name] for name, text in first.items())


@pytest.mark.parametrize(("names", "kind"), [(RUNS["train"], "train"), (RUNS["inference"], "infer")])
def test_monai_finds_the_ids_it_requires(names, kind, tiny_bundle, phantom_data):
    workflow = ConfigWorkflow(
        config_file=[str(tiny_bundle / "configs" / name) for name in names],
        workflow_type=kind,
        logging_file=False,
        bundle_root=str(tiny_bundle),
        dataset_dir=str(phantom_data),
    )
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize(
    ("modality", "dicom"),
    [(["MRI"], "MR"), (["mr"], "MR"), (["CT"], "CT"), (["PET"], "PT"), (["T1"], None), (["CT", "PET"], None)],
)
def test_dicom_of_another_modality_is_refused_where_the_card_states_one_that_dicom_knows(
    modality: list[str], dicom: str | None
) -> None:
    task = card(modality=modality)
    config = configs(make_plan(fingerprint([1.0, 1.0, 1.0], [64, 64, 64], task), task))["inference.json"]
    assert config["dicom"]["modality"] == dicom
    assert config["preprocessing"]["transforms"][0]["dicom"] == "@dicom"
    assert config["dataset"]["data"]["dicom"] == "@dicom"


def two_channels(folder: Path, **overrides: Any) -> dict[str, Any]:
    """The configs for scans of two channels, and a folder with one whole scan and one that lacks its first channel."""
    rng = np.random.default_rng(0)
    for name in ("a_0000", "a_0001", "b_0001"):
        nib.save(
            nib.Nifti1Image(rng.normal(size=(12, 14, 10)).astype(np.float32), np.eye(4)), folder / f"{name}.nii.gz"
        )
    task = card(modality=["T1", "T2"], overrides=overrides)
    return configs(make_plan(fingerprint([1.0, 1.0, 1.5], [64, 64, 64], task), task))


def test_a_scan_that_lacks_a_channel_is_refused_by_name_or_read_with_zeros_by_choice(tmp_path, caplog):
    config = two_channels(tmp_path)["inference.json"]
    assert config["missing_channels"] == "refuse"
    for choice, message in (
        ("refuse", "b lacks its channel b_0000, 2 are needed"),
        ("zeros", "is 'zeros': it must be"),
    ):
        parser = ConfigParser({**config, "dataset_dir": str(tmp_path), "missing_channels": choice})
        with pytest.raises(RuntimeError) as refused:
            parser.get_parsed_content("dataset")
        assert message in str(our_error(refused.value))

    parser = ConfigParser({**config, "dataset_dir": str(tmp_path), "missing_channels": "zero"})
    whole, lacking = (batch["image"][0] for batch in parser.get_parsed_content("dataloader"))
    assert whole.shape[0] == lacking.shape[0] == 2
    assert all(channel.any() for channel in whole)
    assert not lacking[0].any()
    assert lacking[1].std() == pytest.approx(1, abs=0.1)
    assert "b lacks channel 0: it counts as zero" in caplog.text
    assert Path(lacking.meta["filename_or_obj"]).name == "b.nii.gz"


def test_channels_are_dropped_in_training_by_choice(tmp_path):
    train = two_channels(tmp_path, channel_dropout=0.9)["train.json"]
    assert train["channel_dropout"] == 0.9
    intensity = ConfigParser(train).get_parsed_content("train::intensity")
    images = [intensity.set_random_state(seed)({"image": torch.rand(2, 8, 8, 8) + 1})["image"] for seed in range(20)]
    dropped = [[not channel.any() for channel in image] for image in images]
    assert not any(all(each) for each in dropped)
    assert sum(map(any, dropped)) > 15
    assert two_channels(tmp_path)["train.json"]["channel_dropout"] == 0.0


@pytest.mark.parametrize("modality", [["MRI"], ["red", "green", "blue"]])
def test_a_dropout_of_the_only_picture_is_refused(modality):
    task = card(modality=modality, overrides={"channel_dropout": 0.2})
    with pytest.raises(ConfigError, match="channel_dropout under overrides in the task card must be a share"):
        make_plan(fingerprint([1.0, 1.0, 1.0], [64, 64, 64], task), task)
