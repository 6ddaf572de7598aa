import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Engine, Events

from unet_bundle.errors import CheckpointError, ConfigError
from unet_bundle.networks import UNet
from unet_bundle.runtime import error_message, our_error
from unet_bundle.training import CheckpointLoader, RunCheckpoints, TrainStep, checkpoints, goes_on, run_state
from unet_bundle.training.checkpoints import load_checkpoint, save_atomically


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def load(path: Path, network: UNet) -> None:
    CheckpointLoader(str(path), {"model": network})(Engine(lambda _engine, _batch: None))


# --- loading ----------------------------------------------------------------------------------------------------


@pytest.fixture
def other(make_network: Callable[..., UNet]) -> dict[str, torch.Tensor]:
    """Weights of the network of these tests, other than those it starts with."""
    return {key: value + 1 for key, value in make_network().state_dict().items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"model": s},
        lambda s: {"network": s, "optimizer": {}},
        lambda s: {"model": {"network": s}},
    ],
    ids=["plain", "model", "network", "both"],
)
def test_weights_are_found_where_monai_and_we_put_them(wrap, other, make_network, tmp_path):
    network = make_network()
    torch.save(wrap(other), tmp_path / "model.pt")
    load(tmp_path / "model.pt", network)
    assert same(network.state_dict(), other)


def test_float16_weights_become_the_networks_float32(other, make_network, tmp_path):
    network = make_network()
    torch.save({key: value.half() for key, value in other.items()}, tmp_path / "model.pt")
    load(tmp_path / "model.pt", network)
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}
    assert same(network.state_dict(), {key: value.half().float() for key, value in other.items()})


def test_a_full_disk_is_one_line_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def full(*_arguments: Any) -> None:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc] unexpected pos 64 vs 0")

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(OSError, match="No space left") as raised:
        save_atomically({}, tmp_path / "last.pt")
    wrapped = RuntimeError("Failed to evaluate ConfigExpression")
    wrapped.__cause__ = raised.value
    assert isinstance(our_error(wrapped), ConfigError)
    assert error_message(wrapped) == (
        f"the folder {tmp_path.name!r} takes no more files (No space left on device): make room there, or give another."
    )


def misshaped(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {**state, "heads.0.weight": state["heads.0.weight"][:2]}


@pytest.mark.parametrize(
    ("spoil", "line"),
    [
        (
            lambda s: {k: v for k, v in s.items() if k != "heads.0.bias"},
            "1 missing, 0 misshaped and 0 unknown tensors (first: heads",
        ),
        (
            lambda s: {**s, "extra": torch.ones(1)},
            "0 missing, 0 misshaped and 1 unknown tensors (first: extra is unknown)",
        ),
        (lambda s: {f"module.{k}": v for k, v in s.items()}, "{n} missing, 0 misshaped and {n} unknown"),
        (misshaped, "1 misshaped and 0 unknown tensors (first: heads.0.weight has shape"),
        (lambda s: {**s, "heads.0.bias": "text"}, "1 misshaped and 0 unknown tensors (first: heads.0.bias has shape"),
        (lambda _s: [1, 2], "holds no state dict of a network"),
        (lambda _s: torch.ones(3), "holds no state dict of a network"),
    ],
    ids=["missing", "unknown", "renamed", "misshaped", "no tensor", "list", "tensor"],
)
def test_weights_that_do_not_fit_are_refused_and_leave_the_network_alone(spoil, line, other, make_network, tmp_path):
    network = make_network()
    path = tmp_path / "models" / "model.pt"
    save_atomically(spoil(other), path)
    with pytest.raises(CheckpointError) as refusal:
        load(path, network)
    assert str(refusal.value).startswith("models/model.pt ")
    assert line.format(n=len(other)) in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert same(network.state_dict(), make_network().state_dict())


def test_a_missing_checkpoint_says_what_to_do(make_network, tmp_path, monkeypatch):
    with pytest.raises(CheckpointError, match=r"^models/model\.pt is missing: train the bundle first"):
        load(tmp_path / "models" / "model.pt", make_network())
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"^model\.pt is missing"):
        load(Path("model.pt"), make_network())
    with pytest.raises(CheckpointError, match=r"is no readable checkpoint \(IsADirectoryError\)"):
        load_checkpoint(tmp_path)


def test_a_damaged_checkpoint_is_one_line_however_it_is_damaged(other, tmp_path):
    good = tmp_path / "good.pt"
    torch.save(other, good)
    whole = good.read_bytes()
    start = whole.index(b"data.pkl")
    damage = np.random.default_rng(0)
    bad = tmp_path / "bad.pt"
    contents = [b"", b"\x00", b"\x80\x02.", b"hello, this is text", b"\x80\x02}q\x00("]
    contents += [whole[: int(damage.integers(1, len(whole)))] for _ in range(30)]
    for _ in range(100):  # a byte of the pickled names and sizes is another
        at = start + int(damage.integers(600))
        contents.append(whole[:at] + bytes([int(damage.integers(256))]) + whole[at + 1 :])
    for content in contents:
        bad.write_bytes(content)
        try:
            load_checkpoint(bad)
        except CheckpointError as error:
            assert "\n" not in str(error)  # noqa: PT017  (some of the changed bytes do no harm)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    class Harmful:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "harmed",)

    torch.save({"a": Harmful()}, tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"no readable checkpoint \(UnpicklingError\)"):
        load_checkpoint(tmp_path / "model.pt")
    assert not (tmp_path / "harmed").exists()


def test_saving_that_fails_keeps_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "model.pt"
    save_atomically({"a": torch.ones(2)}, path)
    before = path.read_bytes()
    with pytest.raises(Exception, match=r"pickle|Can't"):
        save_atomically({"a": lambda: None}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_run_sets_the_files_of_the_one_before_aside(
    make_network, make_trainer, make_evaluator, patches, tmp_path
):
    network = make_network()
    trainer = make_trainer(network, patches, TrainStep("float32"))
    files = ("best.pt", "epoch_00001.pt", "last.pt")
    (tmp_path / f".{'0f' * 16}-last.pt").write_bytes(b"what a killed process has left of a state")
    for name in files:
        (tmp_path / name).write_text(f"{name} of the run before")
    seen = []

    @trainer.on(Events.ITERATION_STARTED(once=1))
    def _look(_engine: Engine) -> None:
        seen.extend(sorted(path.name for path in tmp_path.iterdir()))

    RunCheckpoints(network, trainer.optimizer, make_evaluator(network, patches), str(tmp_path), 1).attach(trainer)
    trainer.run()
    assert seen == [".lock", *(f"earlier_{name}" for name in files)]
    assert (tmp_path / "earlier_last.pt").read_text() == "last.pt of the run before"


def test_weights_are_read_again_only_if_they_or_the_file_changed(tmp_path, make_network, monkeypatch):
    network, path, read = make_network(), tmp_path / "model.pt", []
    torch.save(network.state_dict(), path)
    original = checkpoints.load_checkpoint
    monkeypatch.setattr(checkpoints, "load_checkpoint", lambda file: read.append(file) or original(file))
    loader = checkpoints.CheckpointLoader(str(path), {"model": network})
    for changed in (None, "nothing", "network", "file"):
        if changed == "network":
            torch.nn.init.zeros_(next(network.parameters()))
        if changed == "file":
            torch.save({key: value * 2 for key, value in network.state_dict().items()}, path)
        expected = torch.load(path, weights_only=True)
        loader(None)
        assert all(torch.equal(value, expected[key]) for key, value in network.state_dict().items())
    assert len(read) == 3


def test_a_checkpoint_that_goes_between_two_scans_is_named(tmp_path, make_network):
    network, path = make_network(), tmp_path / "models" / "model.pt"
    save_atomically(network.state_dict(), path)
    loader = CheckpointLoader(str(path), {"model": network})
    loader(None)
    path.unlink()
    with pytest.raises(CheckpointError, match=r"^models/model\.pt is missing"):
        loader(None)


@pytest.mark.parametrize("goes", [False, True], ids=["replaced", "removed"])
def test_a_checkpoint_that_changes_while_it_is_read_is_refused(goes, tmp_path, make_network, other, monkeypatch):
    network, path = make_network(), tmp_path / "models" / "model.pt"
    save_atomically(network.state_dict(), path)
    read = torch.load

    def slowly(file: Path, **options: Any) -> Any:
        content = read(file, **options)
        if goes:
            path.unlink()
        else:
            save_atomically(other, path)
        return content

    monkeypatch.setattr(torch, "load", slowly)
    with pytest.raises(CheckpointError, match="is missing" if goes else r"^models/model\.pt changed while it was read"):
        CheckpointLoader(str(path), {"model": network})(None)


@pytest.mark.parametrize("settings", [{"save_minutes": 0}, {"keep_every": 0}])
def test_intervals_that_are_none_are_refused(settings, make_network, make_trainer, make_evaluator, patches, tmp_path):
    network = make_network()
    optimizer = make_trainer(network, patches, TrainStep("float32")).optimizer
    with pytest.raises(ConfigError, match=r"must be positive, or null for never, not 0\.$"):
        RunCheckpoints(network, optimizer, make_evaluator(network, patches), str(tmp_path), 1, **settings)


def test_whether_a_run_goes_on(make_network, make_trainer, make_evaluator, patches, tmp_path, monkeypatch):
    folder = str(tmp_path)
    assert (goes_on(folder), goes_on(folder, True), goes_on(folder, "auto")) == (False, True, False)
    with pytest.raises(ConfigError, match=r"^resume must be true, false or auto, not 'yes'\.$"):
        goes_on(folder, "yes")

    network = make_network()
    trainer = make_trainer(network, patches, TrainStep("float32"))
    states = RunCheckpoints(network, trainer.optimizer, make_evaluator(network, patches), folder, 1)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "this launch")
    states._save(trainer)
    assert (goes_on(folder), goes_on(folder, "auto")) == (False, True)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert goes_on(folder)
    assert goes_on(folder, True)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a later launch, which died before it had saved anything")
    assert (goes_on(folder), goes_on(folder, "auto")) == (False, True)
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT")
    assert (goes_on(folder, "True"), goes_on(folder, "false")) == (True, False)
    trainer.state.epoch = trainer.state.max_epochs = states._configured_epochs = 4
    trainer.state.epoch_length, trainer.state.iteration = 1, 4
    states._save(trainer, finished=True)
    assert (goes_on(folder), goes_on(folder, "auto", 5)) == (False, True)
    for epochs in (None, 4, 3):
        with pytest.raises(CheckpointError, match=r"last\.pt is of a run that is done: nothing is trained"):
            goes_on(folder, "auto", epochs)
    monkeypatch.setattr(run_state, "under_monai_command_line", lambda: True)
    with pytest.raises(SystemExit) as ended:
        goes_on(folder, "auto", 4)
    assert ended.value.code == 0
