"""Keys that nobody knows and values of another kind are refused, on the real configs of a planned bundle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from unet_bundle.config_checks import check_classes, check_keys
from unet_bundle.errors import ConfigError

LABEL_SERVER_LOADER = {
    "_target_": "CheckpointLoader",
    "load_path": "model.pt",
    "load_dict": {"model": "$@network"},
    "strict": False,
}
Check = Callable[..., None]


@pytest.fixture
def check(tiny_bundle: Path) -> Check:
    """A function from files of the bundle and overrides to the check that a run of them makes."""

    def run(*files: str, **overrides: Any) -> None:
        paths = [str(tiny_bundle / "configs" / file) for file in files]
        config, own = ConfigParser(), ConfigParser()
        config.read_config(paths)
        own.read_config(paths)
        config.update(overrides)
        check_keys(config.get(), own.get())

    return run


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("batch_sizes", "'batch_size'"),
        ("max_epoch", "'max_epochs'"),
        ("train::trainer::max_epoch", "'train::trainer::max_epochs'"),
        ("train#trainer#max_epoch", "'train::trainer::max_epochs'"),
        ("train::datasets", "'train::dataset'"),
        ("train::foo", "remove it"),
        ("network_def::dropuot", "'network_def::dropout'"),
        ("train::dataset::cache_rate", "'train::dataset::cache_bytes'"),
        ("train::dataloader::num_worker", "'train::dataloader::num_workers'"),
        ("train::handlers::1::peaks", "'train::handlers::1::peak'"),
        ("optimizer::learning_rate", "remove it"),
    ],
)
def test_unknown_key_is_refused_with_the_closest_known_one(check: Check, key: str, hint: str) -> None:
    with pytest.raises(ConfigError, match="has no effect") as caught:
        check("train.json", **{key: 1})
    assert key.replace("#", "::") in str(caught.value)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        ("batch_size", "many", "a whole number"),
        ("batch_size", True, "a whole number"),
        ("batch_size", [2], "a whole number"),
        ("batch_size", 2.5, "a whole number"),
        ("resume", "yes please", "true, false or auto"),
        ("compile", "true", "true, false or auto, written True"),
        ("compile", "yes please", "true, false or auto"),
        ("channels_last", "first", "true, false or auto"),
        ("save_minutes", "often", "a number"),
        ("patch_size", "32", "a list"),
        ("patch_size", 32, "a list"),
        ("network_def::channels", 8, "a list"),
        ("train::random_transforms", "none", "a list"),
    ],
)
def test_value_of_another_kind_is_refused(check: Check, key: str, value: Any, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"{key!r} must be {kind}, not"):
        check("train.json", **{key: value})


# --- keys that are known ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "files",
    [
        ["train.json"],
        ["train.json", "multi_gpu_train.json"],
        ["inference.json"],
        ["inference.json", "inference_trt.json"],
        ["inference.json", "evaluate.json"],
        ["inference.json", "evaluate.json", "multi_gpu_evaluate.json"],
        ["train.json", "evaluate.json"],  # as federated hosts lay them
    ],
    ids="+".join,
)
def test_own_keys_pass(check: Check, files: list[str]) -> None:
    check(*files)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch_size", 4),
        ("learning_rate", 1),
        ("patch_size", (32, 32, 16)),  # Fire makes a tuple of 32,32,16
        ("max_minutes", 0.5),
        ("max_epochs", None),
        ("batch_size", "$2 * 2"),
        ("train::trainer::max_epochs", 3),
        ("train#trainer#max_epochs", 3),
        ("train::trainer::amp", False),  # an argument that our config leaves to its default
        ("train::dataloader::prefetch_factor", 4),  # of torch's DataLoader, behind MONAI's
        ("train::dataset::_disabled_", True),
        ("train::dataset::data", [{"image": "a.nii.gz", "label": "b.nii.gz"}]),  # instead of a component
        ("validate::dataset::data", []),
        ("_meta_::name", "mine"),
        ("tracking_uri", "sqlite:///runs.db"),
        ("experiment_name", "first"),
        ("run_name", "second"),
        ("save_execute_config", False),
        ("optimizer", {"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.1, "momentum": 0.9}),
    ],
)
def test_known_key_passes(check: Check, key: str, value: Any) -> None:
    check("train.json", **{key: value})


def test_key_that_another_value_refers_to_passes(check: Check) -> None:
    check("train.json", rates={"slow": 1e-4, "fast": 1e-2}, learning_rate="@rates::slow")
    check("train.json", factor=2, learning_rate="$0.001 * @factor")
    with pytest.raises(ConfigError, match="'factors'"):
        check("train.json", factors=2, learning_rate="$0.001 * @factor")


def test_handler_inserted_by_a_host_passes_and_its_arguments_are_checked(check: Check, tiny_bundle: Path) -> None:
    parser = ConfigParser()
    parser.read_config(str(tiny_bundle / "configs" / "train.json"))
    handlers = parser["train"]["handlers"]
    check("train.json", **{"train#handlers": [LABEL_SERVER_LOADER, *handlers]})
    with pytest.raises(ConfigError, match="'train::handlers::0::load_paht'"):
        check("train.json", **{"train#handlers": [{**LABEL_SERVER_LOADER, "load_paht": "x"}, *handlers]})


def test_text_for_true_is_taken_where_a_run_goes_on_and_nowhere_else(check: Check) -> None:
    check("train.json", resume="true")
    with pytest.raises(ConfigError, match=r"must be true, false or auto, written True, not 'true'\.$"):
        check("train.json", compile="true")


@pytest.mark.parametrize("key", ["max_epochs", "batch_size", "val_interval"])
def test_a_count_of_none_is_refused(key):
    with pytest.raises(ConfigError, match=rf"'{key}' must be at least 1, not 0"):
        check_keys({key: 0}, {key: 5})


def test_classes_are_numbers_however_they_are_written() -> None:
    labels = {"background": 0, "a": 1, "b": 2}
    for stated in ([1, 2], [1.0], (2,), {"01": 0.5}, {"1": 0.5}, [], None, "$[9]"):
        check_classes({"labels": labels, "keep_largest": stated})
    for stated in ([3], (9,), {"0": 1}, ["a"], {"x": 1}):
        with pytest.raises(ConfigError, match=r"keep_largest names the class .*, but .* are 1 \(a\), 2 \(b\)"):
            check_classes({"labels": labels, "keep_largest": stated})


def test_a_count_without_end_is_no_whole_number() -> None:
    with pytest.raises(ConfigError, match="'max_epochs' must be a whole number, not inf"):
        check_keys({"max_epochs": float("inf")}, {"max_epochs": 5})
