"""Duties of every network: a new one gets all of these tests by one line at the end of the file."""

import copy
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.export import Dim

from unet_bundle.networks import IncompatibleWeightsError, InputTooSmallError, UNet, unet3d2016, unet2015


def _trained(network: UNet, image: Tensor) -> UNet:
    """Weights as after some training: norms that scale and shift, batch norm that has seen images."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.dim() == 1:
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.3, generator=generator)
        network.train()(image)
    return network.eval()


class NetworkTests:
    """What a user of any network here relies on."""

    make: ClassVar[Callable[[], UNet]]
    exported_axes: ClassVar[int]
    """How many axes have a size open at export: torch takes 20 s over three symbolic sizes of maps that are cropped."""

    def __init_subclass__(cls, make: Callable[[], UNet], exported_axes: int = 3) -> None:
        cls.make = staticmethod(make)
        cls.exported_axes = exported_axes

    @pytest.fixture(autouse=True)
    def _same_weights_every_time(self) -> None:
        torch.manual_seed(0)

    @pytest.fixture
    def network(self) -> UNet:
        network = self.make()
        return _trained(network, self.image(network, batch=2))

    @staticmethod
    def sizes(network: UNet) -> tuple[list[int], list[int], list[int]]:
        """Whole strides; more of them; about the smallest there is: odd, and below the stride where it can be."""
        whole = [max(2 * s, -(-n // s) * s) for n, s in zip(network.smallest_image, network.total_stride, strict=True)]
        larger = [n + s * (1 + axis) for axis, (n, s) in enumerate(zip(whole, network.total_stride, strict=True))]
        smallest = [n + (n == 1) * 2 * axis for axis, n in enumerate(network.smallest_image)]
        smallest[-1] += network.total_stride[-1]
        return whole, larger, smallest

    def image(self, network: UNet, batch: int = 1, size: list[int] | None = None) -> Tensor:
        return torch.randn(batch, network.in_channels, *(size or self.sizes(network)[0]))

    def test_forward_and_backward(self) -> None:
        network = self.make().train()
        image = self.image(network, batch=2)
        logits = network(image)
        logits = logits if isinstance(logits, list) else [logits]
        assert logits[0].shape == (2, network.out_channels, *network.output_shape(image.shape[2:]))
        sum(output.square().mean() for output in logits).backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name

    def test_any_image_size(self, network: UNet) -> None:
        for size in self.sizes(network):
            logits = network(self.image(network, size=size))
            assert isinstance(logits, Tensor)
            assert logits.shape == (1, network.out_channels, *network.output_shape(size))
            assert logits.isfinite().all()

    def test_every_depth_reaches_the_logits(self, network: UNet) -> None:
        image = self.image(network)
        logits = network(image)
        for stage in (*network.encoder, *network.decoder):
            hook = stage.register_forward_hook(lambda _module, _inputs, output: output * 1.5)
            assert not torch.allclose(network(image), logits, atol=1e-4)
            hook.remove()

    def test_save_and_load(self, network: UNet, tmp_path: Path) -> None:
        image = self.image(network)
        torch.save(network.state_dict(), tmp_path / "model.pt")
        loaded = self.make().eval()
        loaded.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
        pickled = pickle.loads(pickle.dumps(network))  # noqa: S301
        for other in (loaded, copy.deepcopy(network), pickled):
            assert torch.equal(other(image), network(image))

    def test_weights_in_half_precision_load(self, network: UNet) -> None:
        half = {name: tensor.half() for name, tensor in network.state_dict().items()}
        loaded = self.make().eval()
        loaded.load_state_dict(half)
        assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
        image = self.image(network)
        torch.testing.assert_close(loaded(image), network(image), atol=0.05, rtol=0.05)

    @pytest.mark.parametrize("damage", ["missing", "unexpected", "misshaped"])
    @pytest.mark.parametrize("scripted", [False, True])
    def test_weights_of_another_network_are_refused(self, network: UNet, damage: str, scripted: bool) -> None:
        state = network.state_dict()
        name, tensor = list(state.items())[-1]
        if damage == "unexpected":
            state["encoder.9.weight"] = tensor
            name = "encoder.9.weight"
        elif damage == "missing":
            del state[name]
        else:
            state[name] = torch.cat((tensor, tensor))
        target = torch.jit.script(network) if scripted else network
        with pytest.raises(IncompatibleWeightsError, match=f"first: {name} "):
            target.load_state_dict(state, strict=False)

    def test_bfloat16_autocast(self, network: UNet) -> None:
        image = self.image(network)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(image)
        reference = network(image)
        assert (logits - reference).norm() < 0.1 * reference.norm()
        assert logits.dtype == torch.float32

    def test_image_too_small_is_a_named_error_everywhere(self, network: UNet) -> None:
        image = self.image(network, size=[1] * network.spatial_dims)
        if network.norm != "instance" and network.padded:
            assert network(image).shape == (1, network.out_channels, *image.shape[2:])
            return
        messages = []
        for mode in (network.eval(), network.train()):
            with pytest.raises(InputTooSmallError) as error:
                mode(image)
            messages.append(str(error.value))
        with pytest.raises(torch.jit.Error) as script_error:
            torch.jit.script(network.eval())(image)
        assert messages[0] == messages[1]
        assert messages[0] in str(script_error.value)

    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
    def test_same_logits_through_torchscript(self, network: UNet) -> None:
        file = io.BytesIO()
        torch.jit.save(torch.jit.script(network), file)
        file.seek(0)
        scripted = torch.jit.load(file)
        traced = torch.jit.trace(network, self.image(network))
        for size in self.sizes(network):
            image = self.image(network, size=size)
            assert isinstance(scripted(image), Tensor)
            assert torch.equal(scripted(image), network(image))
            assert torch.equal(traced(image), network(image))

    def test_same_logits_through_compile(self, network: UNet) -> None:
        # Without Inductor, which takes its time; test_unet.py has it once.
        torch.compiler.reset()
        compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
        for size in self.sizes(network)[::2]:
            image = self.image(network, size=size)
            with torch.no_grad():
                torch.testing.assert_close(compiled(image), network(image), atol=1e-5, rtol=0)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
    def test_same_logits_through_export_and_onnx(self, network: UNet) -> None:
        pytest.importorskip("onnxscript")
        onnxruntime = pytest.importorskip("onnxruntime")
        whole, larger, _ = self.sizes(network)
        dynamic = {2 + axis: s * Dim(f"n{axis}", min=2) for axis, s in enumerate(network.total_stride)}
        dynamic = dict(list(dynamic.items())[-self.exported_axes :])
        larger = [n if 2 + axis in dynamic else whole[axis] for axis, n in enumerate(larger)]
        exported = torch.export.export(
            network, (self.image(network, batch=2),), dynamic_shapes=({0: Dim("batch"), **dynamic},)
        )
        program = torch.onnx.export(exported, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
        for batch, size in ((1, whole), (3, larger)):
            image = self.image(network, batch=batch, size=size)
            logits = network(image).detach()
            torch.testing.assert_close(exported.module()(image), logits, atol=1e-5, rtol=0)
            (onnx_logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
            torch.testing.assert_close(torch.from_numpy(onnx_logits), logits, atol=1e-4, rtol=1e-4)


class TestDefaults2D(NetworkTests, make=lambda: UNet(2, 1, 3, [4, 8, 8], deep_supervision=True)): ...


class TestAnisotropic3D(
    NetworkTests,
    make=lambda: UNet(
        3, 2, 3, [4, 6, 8], [[1, 3, 3], 3, 3], [1, [1, 2, 2], [2, 2, 2]], [1, 2, 1], deep_supervision=True
    ),
): ...


class TestResidual3D(
    NetworkTests, make=lambda: UNet(3, 1, 2, [4, 8], encoder="residual", convolutions_per_stage=[1, 2])
): ...


class TestPooledResidual2D(
    NetworkTests,
    make=lambda: UNet(2, 1, 2, [4, 4, 8], strides=3, downsampling="max_pool", encoder="residual", norm="batch"),
    exported_axes=1,
): ...


class TestPooled3D(NetworkTests, make=lambda: UNet(3, 1, 2, [4, 8], downsampling="max_pool", bias=False)): ...


class TestInterpolated3D(
    NetworkTests, make=lambda: UNet(3, 1, 2, [4, 8], upsampling="interpolated", norm="none", activation="relu")
): ...


class TestValidResidual2D(
    NetworkTests,
    make=lambda: UNet(2, 1, 2, [4, 8], [3, 3], 2, 1, encoder="residual", padding="valid", upsampling="interpolated"),
    exported_axes=1,
): ...


class TestUNet2015(NetworkTests, make=lambda: unet2015(1, 2, width=2), exported_axes=1): ...


class TestUNet3D2016(NetworkTests, make=lambda: unet3d2016(3, 3, width=1), exported_axes=1): ...


def test_in_bfloat16_the_ends_of_the_network_stay_precise() -> None:
    torch.manual_seed(0)
    network = UNet(spatial_dims=3, in_channels=2, out_channels=5, channels=[8, 16, 32]).eval().requires_grad_(False)
    image = 1.7 + 0.05 * torch.randn(1, 2, 32, 32, 32)  # tissues that differ little
    reference = network(image)
    changed = []
    for precise in (True, False):
        for layer in network.modules():
            if hasattr(layer, "is_end"):
                layer.is_end = layer.is_end and precise
        with torch.autocast("cpu", dtype=torch.bfloat16):
            changed.append(float((network(image).argmax(1) != reference.argmax(1)).float().mean()))
    assert changed[0] < 0.5 * changed[1]


def test_weights_that_are_not_float32_stay_what_they_are() -> None:
    network = UNet(spatial_dims=2, in_channels=1, out_channels=2, channels=[4, 8]).eval().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert network(torch.zeros(1, 1, 16, 16)).dtype == torch.bfloat16
