import copy
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import DataLoader
from monai.transforms import Compose, Transform

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import LoadImaged, find_cases
from unet_bundle.runtime import error_message
from unet_bundle.training import CaseDataset, CaseSampler


def drawn(parser: ConfigParser, epochs: range = range(1, 4)) -> dict[int, torch.Tensor]:
    """Images and labels of each epoch, one after the other, through the loader of train.json."""
    loader: DataLoader = parser.get_parsed_content("train::dataloader")
    result = {}
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        result[epoch] = torch.cat([torch.cat([batch["image"], batch["label"]]) for batch in loader])
    return result


def equal(a: dict[int, torch.Tensor], b: dict[int, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[epoch], b[epoch]) for epoch in a)


@contextmanager
def process_of(rank: int, world: int) -> Iterator[None]:
    """As if torchrun had started this process beside others (a process group of torch that sends nothing)."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


# --- draws ------------------------------------------------------------------------------------------------------


def test_draws_are_the_same_with_any_number_of_workers_and_from_any_epoch_on(train_parser: Callable[..., ConfigParser]):
    reference = drawn(train_parser(num_workers=0))

    assert equal(drawn(train_parser(num_workers=1)), reference)
    assert equal(drawn(train_parser(num_workers=2)), reference)
    third = drawn(train_parser(num_workers=0), range(3, 4))
    assert torch.equal(third[3], reference[3])


def test_draws_differ_between_epochs_and_seeds(train_parser: Callable[..., ConfigParser]):
    draws = drawn(train_parser(num_workers=0))
    other = drawn(train_parser(num_workers=0, seed=1))

    assert all(not torch.equal(a, b) for a, b in itertools.combinations([*draws.values(), *other.values()], 2))


def test_a_cache_of_any_size_gives_the_same_draws(train_parser: Callable[..., ConfigParser]):
    reference = drawn(train_parser(num_workers=0))
    whole = train_parser(num_workers=0).get_parsed_content("train::dataset")
    assert whole.cache_num == len(whole) == 4
    one = max(
        sum(part.nbytes for value in item.values() for part in (value if isinstance(value, list) else [value]))
        for item in whole._cache
    )
    for room, kept in ((0, 0), (int(2.5 * one), 2), (100 * one, 4)):
        parser = train_parser(num_workers=0, cache_bytes=room)
        assert parser.get_parsed_content("train::dataset").cache_num == kept
        assert equal(drawn(parser), reference)


def test_drawing_leaves_the_cache_as_it_was(train_parser: Callable[..., ConfigParser]):
    parser = train_parser(num_workers=0, iterations_per_epoch=20)
    dataset = parser.get_parsed_content("train::dataset")
    before = copy.deepcopy(dataset._cache)
    drawn(parser, range(1, 3))

    for item, kept in zip(dataset._cache, before, strict=True):
        assert all(torch.equal(item[key], kept[key]) for key in ("image", "label"))


@pytest.mark.parametrize(("cases", "samples"), [(7, 5), (5, 7), (1, 3), (208, 250)])
def test_every_case_comes_up_equally_often(cases: int, samples: int):
    sampler = CaseSampler(range(cases), samples, seed=3)
    count: Counter[int] = Counter()
    draws = []
    for epoch in range(1, cases + 1):
        sampler.set_epoch(epoch)
        chosen = list(sampler)
        assert len(chosen) == len(sampler) == samples
        count.update(case for case, _ in chosen)
        draws += [draw for _, draw in chosen]
    assert set(count) == set(range(cases))
    assert set(count.values()) == {samples}
    assert len(set(draws)) > 0.999 * len(draws)


@pytest.mark.parametrize("samples", [6, 7])
def test_processes_share_one_sequence_without_overlap(samples: int):
    def sequence(sampler: CaseSampler) -> list[list[tuple[int, int]]]:
        epochs = []
        for epoch in (1, 2, 3):
            sampler.set_epoch(epoch)
            epochs.append(list(sampler))
        return epochs

    shares = []
    for rank in (0, 1):
        with process_of(rank, world=2):
            shares.append(sequence(CaseSampler(range(5), samples, seed=1)))
    together = sequence(CaseSampler(range(5), samples + samples % 2, seed=1))
    for first, second, whole in zip(*shares, together, strict=True):
        assert len(first) == len(second)
        assert [pair for both in zip(first, second, strict=True) for pair in both] == whole


# --- data that are not there or broken --------------------------------------------------------------------------


def test_no_case_is_fine_for_validation_and_refused_for_training():
    dataset = CaseDataset([], Compose([LoadImaged("image")]))
    assert len(dataset) == 0
    assert list(DataLoader(dataset)) == []
    with pytest.raises(InputError, match=r"^There is no training case: [^\n]+$"):
        CaseSampler(dataset, 10)


def test_values_that_train_nothing_are_refused():
    with pytest.raises(ConfigError, match=r"^An epoch of 0 samples"):
        CaseSampler(range(3), 0)
    with pytest.raises(ConfigError, match=r"^cache_bytes must be 0 or more, not -1\.$"):
        CaseDataset([{"image": "a.nii.gz"}], Compose([LoadImaged("image")]), cache_bytes=-1)


@pytest.fixture
def one_broken(phantom_data: Path, tmp_path: Path) -> list[dict[str, Any]]:
    """Four training cases, the second of which ends in the middle."""
    cases: list[dict[str, Any]] = [dict(case) for case in find_cases(phantom_data)[:4]]
    broken = tmp_path / "broken_case.nii.gz"
    broken.write_bytes(Path(cases[1]["image"]).read_bytes()[:5000])
    cases[1]["image"] = str(broken)
    return cases


@pytest.mark.parametrize(("cache_bytes", "num_workers"), [(None, 0), (0, 0), (0, 1)])
def test_a_broken_case_is_named(
    cache_bytes: int | None, num_workers: int, one_broken: Any, train_parser: Callable[..., ConfigParser]
):
    parser = train_parser(
        **{"train::dataset::data": one_broken, "cache_bytes": cache_bytes, "num_workers": num_workers}
    )
    with pytest.raises(Exception) as raised:  # noqa: PT011  (MONAI wraps it, a worker hands it over as text)
        drawn(parser)
    message = error_message(raised.value)
    assert message is not None
    assert "broken_case.nii.gz" in message
    assert "\n" not in message


class Read(Transform):
    """Reads for a while, but fails on the first case at once; knows who is still reading."""

    def __init__(self) -> None:
        self.running: set[int] = set()

    def __call__(self, item: dict[str, int]) -> dict[str, torch.Tensor]:
        if item["case"] == 0:
            raise InputError("case 0 is broken")
        self.running.add(item["case"])
        time.sleep(0.2)
        self.running.discard(item["case"])
        return {"image": torch.zeros(1)}


def test_when_a_case_fails_no_thread_goes_on_reading():
    read = Read()
    dataset = CaseDataset([], Compose([read]), progress=False)
    dataset.data, dataset.cache_num = [{"case": index} for index in range(50)], 50
    with pytest.raises(RuntimeError) as error:
        dataset._fill_cache()
    assert not read.running
    assert error_message(error.value) == "case 0 is broken"


def test_an_epoch_goes_on_from_any_of_its_samples_once():
    sampler = CaseSampler(range(5), 7, seed=3)
    sampler.set_epoch(2)
    whole = list(sampler)
    for first in range(7):
        sampler.start_at(first)
        assert list(sampler) == whole[first:]
        assert list(sampler) == whole, "only once"


def test_processes_go_on_where_they_were():
    for rank in range(2):
        with process_of(rank, 2):
            sampler = CaseSampler(range(5), 8)
        whole = list(sampler)
        sampler.start_at(3)
        assert list(sampler) == whole[3:]


def test_processes_of_a_machine_share_its_memory(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setattr("unet_bundle.training.data.free_memory_bytes", lambda: 16_000)
    cases = [{"image": torch.zeros(250)}] * 8  # 1000 bytes each
    with process_of(0, 4):
        assert CaseDataset(cases, Compose([]), progress=False).cache_num == 2
    assert CaseDataset(cases, Compose([]), progress=False).cache_num == 8
