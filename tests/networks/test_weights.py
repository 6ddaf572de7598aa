"""Where weights come from: their start, and hosts that load them."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from unet_bundle.networks import IncompatibleWeightsError, UNet, unet2015
from unet_bundle.networks.checkpoint import weights_version


@pytest.fixture
def network() -> UNet:
    torch.manual_seed(0)
    return UNet(2, 1, 2, [2, 4], norm="batch")


@pytest.fixture
def single_process(tmp_path: Path) -> Any:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


class Host(nn.Module):
    """A network inside another module, as training wrappers and ensembles hold it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.other = nn.Linear(2, 2)
        self.inner = nn.ModuleDict({"unet": network})


HOSTS: list[Callable[[nn.Module], nn.Module]] = [
    lambda network: network,
    Host,
    copy.deepcopy,
    lambda network: pickle.loads(pickle.dumps(network)),  # noqa: S301
    torch.jit.script,
    lambda network: Host(torch.jit.script(network)),
    torch.compile,
    lambda network: copy.deepcopy(torch.compile(network)),
    nn.DataParallel,
    DistributedDataParallel,
]
NAMES = [
    "itself",
    "nested",
    "copied",
    "pickled",
    "scripted",
    "nested script",
    "compiled",
    "copied compiled",
    "DP",
    "DDP",
]


@pytest.mark.usefixtures("single_process")
@pytest.mark.parametrize("host", HOSTS, ids=NAMES)
def test_every_host_refuses_weights_of_another_network(network: UNet, host: Callable[[nn.Module], nn.Module]) -> None:
    hosting = host(network)
    state = hosting.state_dict()
    hosting.load_state_dict(state, strict=False)

    head = next(name for name in state if name.endswith("heads.0.weight"))
    smaller = {name: tensor for name, tensor in state.items() if name != head}
    larger = state | {head.replace("heads.0", "heads.1"): state[head]}
    other = state | {head: torch.zeros(3, 2, 1, 1)}
    with pytest.raises(IncompatibleWeightsError, match=r"1 missing, .*first: heads.0.weight is missing"):
        hosting.load_state_dict(smaller, strict=False)
    with pytest.raises(IncompatibleWeightsError, match=r"1 unknown .*first: heads.1.weight is unknown"):
        hosting.load_state_dict(larger, strict=False)
    with pytest.raises(
        IncompatibleWeightsError,
        match=r"1 misshaped .*heads.0.weight has shape \[3, 2, 1, 1\] instead of \[2, 2, 1, 1\]",
    ):
        hosting.load_state_dict(other, strict=False)


def test_refused_weights_leave_the_network_as_it_was(network: UNet) -> None:
    before = copy.deepcopy(network.state_dict())
    state = {name: tensor + 1 for name, tensor in network.state_dict().items()}
    del state["heads.0.bias"]
    with pytest.raises(IncompatibleWeightsError):
        network.load_state_dict(state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_refusal_is_one_sentence(network: UNet) -> None:
    with pytest.raises(IncompatibleWeightsError) as error:
        network.load_state_dict({})
    assert str(error.value) == (
        "These weights do not fit the network: 46 missing, 0 misshaped and 0 unknown tensors (first: "
        "encoder.0.0.convolution.weight is missing); load weights trained with the same network settings."
    )


def test_weights_can_be_assigned_instead_of_copied(network: UNet) -> None:
    with torch.device("meta"):
        empty = UNet(2, 1, 2, [2, 4], norm="batch")
    empty.load_state_dict(network.state_dict(), assign=True)
    image = torch.rand(1, 1, 8, 8)
    assert torch.equal(empty.eval()(image), network.eval()(image))


@pytest.mark.parametrize("settings", [{"activation": "relu"}, {"activation": "leaky_relu"}, {"encoder": "residual"}])
def test_signals_keep_their_scale_at_the_start(settings: dict[str, Any]) -> None:
    # Without a norm, wrong gains would let them vanish or explode over 18 convolutions.
    torch.manual_seed(0)
    network = UNet(2, 1, 2, [32] * 5, norm="none", **settings)
    logits = network.eval()(torch.randn(1, 1, 96, 96))
    assert 0.2 < logits.std() < 5


def test_weights_start_as_he_says() -> None:
    torch.manual_seed(0)
    network = unet2015(1, 2, width=16)
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d) and "heads" not in name:
            expected = (2 / (9 * module.in_channels)) ** 0.5
            assert abs(module.weight.std() / expected - 1) < 0.15, name
        if isinstance(module, nn.ConvTranspose2d):
            # Each of its output pixels sees one pixel, and no ReLU follows.
            assert abs(module.weight.std() * module.in_channels**0.5 - 1) < 0.15, name
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            assert module.bias is not None
            assert not module.bias.any()


def test_residual_blocks_start_as_their_shortcuts() -> None:
    torch.manual_seed(0)
    block = UNet(3, 1, 2, [4, 4], encoder="residual", activation="relu").encoder[0][1]
    x = torch.rand(1, 4, 6, 6, 6)
    assert torch.equal(block(x), x)


class Remembering(nn.Module):
    """Weights in several formats and layouts, and a buffer that no checkpoint has."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.half = nn.Linear(100, 100).bfloat16()
        self.norm = nn.BatchNorm2d(4)
        self.register_buffer("mean", torch.zeros(3), persistent=False)


@pytest.mark.parametrize("name", ["convolution.weight", "half.weight", "half.bias", "norm.running_mean", "mean"])
def test_changes_of_weights_are_noticed(name: str) -> None:
    network = Remembering()
    tensor = dict([*network.named_parameters(), *network.named_buffers()])[name]
    seen = [weights_version(network)]
    assert weights_version(network) == seen[0]
    with torch.no_grad():
        tensor.add_(1)
    seen.append(weights_version(network))
    tensor.data.mul_(0.5)  # PyTorch does not count it
    seen.append(weights_version(network))
    tensor.data = tensor.data.clone()
    seen.append(weights_version(network))
    assert len(set(seen)) == 4
    assert weights_version(network) == seen[-1]


def test_weights_that_were_made_for_inference_have_a_version() -> None:
    with torch.inference_mode():
        network = nn.Conv2d(1, 2, 3)
    seen = weights_version(network)
    with torch.inference_mode():
        network.load_state_dict({key: value + 1 for key, value in network.state_dict().items()})
    assert weights_version(network) != seen
