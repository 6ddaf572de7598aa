import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.data import DataLoader
from torch import multiprocessing

from unet_bundle.errors import ConfigError
from unet_bundle.training import ConfusionPicture, EventWriter, TrainStep, case_shares, local_device, start_processes
from unet_bundle.training.distributed import (
    in_any_process,
    is_main_process,
    mean_over_processes,
    processes_here,
    wait_for_others,
)
from unet_bundle.training.steps import DivergedError


def in_processes(number: int, function: Callable[[], Any], folder: Path) -> list[Any]:
    """What `function` gives in each of so many processes of one gloo group."""

    def run(rank: int) -> None:
        torch.distributed.init_process_group("gloo", f"file://{folder / 'store'}", rank=rank, world_size=number)
        torch.save(function(), folder / f"{rank}.pt")
        torch.distributed.barrier()
        os._exit(0)  # nothing of the tests' process is to be ended twice

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=run, args=(rank,)) for rank in range(number)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    assert [process.exitcode for process in processes] == [0] * number
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(number)]


def test_one_process_writes_and_waits_for_nobody():
    assert is_main_process()
    wait_for_others()


def test_the_multi_gpu_configs_without_torchrun_are_refused_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(ConfigError, match=r"^The multi_gpu configs need several processes: start them by `torchrun "):
        start_processes()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what holds on a machine without a GPU")
def test_without_a_gpu_every_process_has_the_processor():
    assert local_device() == torch.device("cpu")


def test_processes_agree_on_what_each_of_them_saw(tmp_path: Path):
    def look() -> Any:
        rank = torch.distributed.get_rank()
        device = torch.device("cpu")
        seen = [in_any_process(value, device) for value in (False, rank == 1, True)]
        return seen, mean_over_processes(torch.tensor([float(rank), 4.0])).tolist()

    assert in_processes(2, look, tmp_path) == [([False, True, True], [0.5, 4.0])] * 2
    assert in_any_process(True, torch.device("cpu"))
    assert mean_over_processes(torch.ones(1)).item() == 1.0
    assert processes_here() == 1


def test_uneven_shares_of_the_cases_are_scored_as_by_one_process(
    make_evaluator: Any, make_network: Any, patches: Any, tmp_path: Path
):
    assert len(patches) == 3

    def validate() -> Any:
        evaluator = make_evaluator(make_network(), patches)
        if torch.distributed.is_initialized():
            loader = DataLoader(patches, batch_size=1, sampler=case_shares(patches))
            evaluator.data_loader, evaluator.state.epoch_length = loader, len(loader)
        confusion = ConfusionPicture(EventWriter(str(tmp_path / "events")), 4)
        confusion.attach(evaluator)
        evaluator.run(1)
        counts = confusion.counts.clone()
        if torch.distributed.is_initialized():
            torch.distributed.all_reduce(counts)
        return evaluator.state.metrics["val_mean_dice"], counts.tolist(), len(evaluator.data_loader)

    dice, counts, _ = validate()
    shares = in_processes(2, validate, tmp_path)
    assert sorted(share[2] for share in shares) == [1, 2]
    for share in shares:
        assert share[0] == pytest.approx(dice, abs=1e-7)
        assert share[1] == counts


def test_a_loss_that_is_not_finite_in_one_process_keeps_all_from_the_step(
    make_trainer: Any, make_network: Any, patches: Any, tmp_path: Path
):
    def train() -> Any:
        network = make_network()
        before = [weight.clone() for weight in network.parameters()]
        trainer = make_trainer(network, patches, TrainStep("float32", max_bad_steps=1))
        # Finite gradients and an infinite loss, in one process only.
        loss, bad = trainer.loss_function, torch.distributed.get_rank() == 1
        trainer.loss_function = lambda pred, label: loss(pred, label) + (float("inf") if bad else 0.0)
        try:
            trainer.run()
        except DivergedError:
            return all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
        return False

    assert in_processes(2, train, tmp_path) == [True, True]
