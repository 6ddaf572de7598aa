"""The networks of the papers have the sizes that the papers give."""

import torch
from torch import nn

from unet_bundle.networks import unet3d2016, unet2015


def _parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_unet2015_is_the_network_of_the_paper() -> None:
    with torch.device("meta"):
        network = unet2015(1, 2)
        logits = network(torch.empty(1, 1, 572, 572))
    assert _parameters(network) == 31_030_658
    assert logits.shape == (1, 2, 388, 388)
    assert network.output_shape((572, 572)) == (388, 388)
    assert network.total_stride == [16, 16]


def test_unet3d2016_is_the_network_of_the_paper() -> None:
    with torch.device("meta"):
        network = unet3d2016(3, 3)
        logits = network(torch.empty(1, 3, 132, 132, 116))
    batch_norm = sum(_parameters(module) for module in network.modules() if isinstance(module, nn.BatchNorm3d))
    assert _parameters(network) - batch_norm == 19_069_955
    assert logits.shape == (1, 3, 44, 44, 28)
    assert network.output_shape((132, 132, 116)) == (44, 44, 28)
    assert network.total_stride == [8, 8, 8]


def test_tiles_of_unpadded_networks_join_without_a_seam() -> None:
    # The overlap-tile strategy of the 2015 paper: a tile moved by the total stride gives the same logits there.
    network = unet2015(1, 2, width=2).eval()
    image = torch.rand(1, 1, 220, 204)
    whole = network(image)
    tile = network(image[..., 16:204, 16:])
    offset = 16
    assert torch.allclose(tile, whole[..., offset : offset + tile.shape[2], offset : offset + tile.shape[3]], atol=1e-6)


def test_skip_connections_are_cropped_in_the_middle() -> None:
    # So a mirrored network sees a mirrored image as the network sees the image.
    network = unet2015(1, 2, width=2).eval()
    image = torch.rand(1, 1, 188, 204)
    logits = network(image)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() == 4:
                parameter.copy_(parameter.flip(-1))
    torch.testing.assert_close(network(image.flip(-1)), logits.flip(-1), atol=1e-6, rtol=0)
