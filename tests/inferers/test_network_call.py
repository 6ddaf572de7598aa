"""Scores of a window are those of the network, whatever it does with its own memory."""

import torch

from unet_bundle.inferers.network_call import NetworkCall


class Reusing(torch.nn.Module):
    """Writes its scores into the same memory each time, as compiled networks with CUDA graphs do."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = torch.zeros(0)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        self.scores.resize_(windows.shape).copy_(windows.cumsum(-1))
        return self.scores


def test_mirrorings_of_a_network_that_reuses_its_memory() -> None:
    windows = torch.arange(4.0).reshape(1, 1, 2, 2)
    found = NetworkCall([Reusing()], torch.device("cpu"), mirror_axes=[1])(windows)
    assert torch.equal(found, (windows.cumsum(-1) + windows.flip(-1).cumsum(-1).flip(-1)) / 2)


def test_what_is_remembered_is_not_overwritten() -> None:
    call = NetworkCall([Reusing()], torch.device("cpu"))
    air = torch.full((1, 1, 2, 2), -1.0)
    call(air)
    call(torch.arange(4.0).reshape(1, 1, 2, 2))
    assert torch.equal(call(air), air.cumsum(-1))


def test_air_and_water_in_one_batch() -> None:
    windows = torch.arange(4.0).reshape(1, 1, 2, 2)
    batch = torch.cat([windows, windows * 0, windows, windows * 0 + 1])
    call = NetworkCall([Reusing()], torch.device("cpu"))
    for _ in range(2):
        assert torch.equal(call(batch), batch.cumsum(-1))


def test_windows_are_left_as_they_are() -> None:
    windows = torch.arange(4.0).reshape(1, 1, 2, 2)
    NetworkCall([lambda seen: seen], torch.device("cpu"), mirror_axes=[0, 1])(windows)
    assert windows.flatten().tolist() == [0.0, 1.0, 2.0, 3.0]
