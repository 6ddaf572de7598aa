"""Patches: what is drawn, and that applying a draw moves image and label alike."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import ClassesToIndicesd, Compose, Orientationd
from scipy import ndimage

from unet_bundle.errors import ConfigError
from unet_bundle.transforms import RandSpatiald
from unet_bundle.transforms.sampling import PatchDraw, coordinates, sample_patch
from unet_bundle.transforms.spatial import rotation

SHAPE = (30, 26, 22)
PATCH = (16, 12, 8)
TURNED = {
    "rotate_range": [30.0, 30.0, 30.0],
    "rotate_prob": 1.0,
    "zoom_range": [0.7, 1.4],
    "zoom_prob": 1.0,
    "flip_axes": [0, 1, 2],
}


@pytest.fixture
def scan() -> dict[str, torch.Tensor]:
    """A smooth image and two organs of very different size."""
    random = np.random.RandomState(0)
    image = ndimage.gaussian_filter(random.rand(*SHAPE), 2).astype(np.float32)
    label = np.zeros(SHAPE, np.uint8)
    label[3:15, 4:16, 5:15] = 1
    label[22:24, 20:22, 18:20] = 2
    return {"image": torch.from_numpy(image)[None], "label": torch.from_numpy(label)[None]}


def draw_of(
    center: list[float], degrees: list[float] | None = None, zoom: float = 1.0, mirrored: tuple[int, ...] = ()
) -> PatchDraw:
    matrix = (rotation(degrees) if degrees else np.eye(3)) / zoom
    matrix[:, list(mirrored)] *= -1
    return PatchDraw(np.asarray(center), matrix)


def test_a_plain_draw_is_a_crop(scan: dict[str, torch.Tensor]) -> None:
    patch = sample_patch(scan["image"], draw_of([11.5, 10.5, 9.5]), PATCH, "bilinear")
    assert torch.equal(patch, scan["image"][:, 4:20, 5:17, 6:14])


def test_beyond_the_scan_are_zeros(scan: dict[str, torch.Tensor]) -> None:
    patch = sample_patch(scan["image"], draw_of([3.5, 10.5, 9.5]), PATCH, "bilinear")
    assert torch.equal(patch[:, :4], torch.zeros(1, 4, 12, 8))
    assert torch.equal(patch[:, 4:], scan["image"][:, :12, 5:17, 6:14])
    far = sample_patch(scan["image"], draw_of([500.0, 500.0, 500.0]), PATCH, "bilinear")
    assert not far.any()


@pytest.mark.parametrize("mirrored", [(0,), (1, 2), (0, 1, 2)])
def test_mirroring_twice_is_nothing(scan: dict[str, torch.Tensor], mirrored: tuple[int, ...]) -> None:
    once = sample_patch(scan["image"], draw_of([11.5, 10.5, 9.5], mirrored=mirrored), PATCH, "bilinear")
    twice = sample_patch(once, draw_of([7.5, 5.5, 3.5], mirrored=mirrored), PATCH, "bilinear")
    assert torch.equal(twice, scan["image"][:, 4:20, 5:17, 6:14])


@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_rotation_and_zoom_agree_with_scipy(scan: dict[str, torch.Tensor], mode: str) -> None:
    drawn = draw_of([14.3, 12.8, 10.1], [20.0, -10.0, 35.0], zoom=1.2, mirrored=(1,))
    ours = sample_patch(scan["image"], drawn, PATCH, mode)[0].numpy()
    offset = drawn.center - drawn.matrix @ ((np.asarray(PATCH) - 1) / 2)
    theirs = ndimage.affine_transform(
        scan["image"][0].numpy().astype(np.float64),
        drawn.matrix,
        offset,
        output_shape=PATCH,
        order=1 if mode == "bilinear" else 0,
        mode="grid-constant",
    )
    different = np.abs(ours - theirs) > 1e-5
    assert different.mean() <= (0.0 if mode == "bilinear" else 0.001)  # of two equally near voxels either may be taken


@pytest.mark.parametrize(
    "kind", [torch.uint8, torch.bool, torch.uint16, torch.int32, torch.uint32, torch.int64, torch.float32]
)
def test_labels_of_any_type_are_read_where_they_lie(kind: torch.dtype) -> None:
    """Also from a view, whose voxels are not neighbours in memory, and for numbers that float32 does not hold."""
    size = (9, 10, 11)
    large = 2**24 + 1 if kind in (torch.int32, torch.uint32, torch.int64) else 0
    whole = (torch.rand(2, 20, 21, 22) * 5).long() + large
    view = whole.to(kind)[:, 2:, 3:-1, ::2]
    drawn = draw_of([8.3, 7.8, 6.1], [20.0, -10.0, 35.0], zoom=1.2)
    patch = sample_patch(view, drawn, size, "nearest")
    places = torch.round(coordinates(drawn, size)).long()
    inside = ((places >= 0) & (places < torch.tensor(view.shape[1:]))).all(dim=-1)
    i, j, k = places[inside].T
    assert patch.dtype == kind
    assert torch.equal(patch.long()[:, inside], view.long()[:, i, j, k])
    assert not patch.long()[:, ~inside].any()


def test_a_plane_turns_as_a_volume_of_one_slice(scan: dict[str, torch.Tensor]) -> None:
    plane = scan["image"][..., 10]
    flat = sample_patch(plane, PatchDraw(np.array([14.5, 12.5]), rotation([25.0])), PATCH[:2], "bilinear")
    thin = sample_patch(scan["image"], draw_of([14.5, 12.5, 10.0], [0.0, 0.0, 25.0]), (*PATCH[:2], 1), "bilinear")
    assert torch.allclose(flat, thin[..., 0], atol=1e-5)


def test_rotation_is_in_millimetres() -> None:
    """A rod of 12 mm along thin slices still has 12 mm when a quarter turn lays it across thick ones."""
    rod = torch.zeros(1, 24, 24, 12)
    rod[:, 11:13, 6:18, 5:7] = 1
    turn = RandSpatiald("image", [24, 24, 12], spacing=[1.0, 1.0, 3.0])
    spacing = np.asarray(turn.sampler.spacing)
    drawn = PatchDraw(np.array([11.5, 11.5, 5.5]), rotation([90.0, 0.0, 0.0]) * spacing / spacing[:, None])
    turned = sample_patch(rod, drawn, [24, 24, 12], "nearest")[0]
    length = 3.0 * int((turned.amax((0, 1)) > 0).sum())
    assert length == pytest.approx(12.0, abs=3.0)
    assert int((turned.amax((0, 2)) > 0).sum()) == pytest.approx(6, abs=1)


def test_image_and_label_move_together(scan: dict[str, torch.Tensor]) -> None:
    scan["image"] = scan["label"].float()
    patches = RandSpatiald(["image", "label"], PATCH, mode="nearest", **TURNED)
    for seed in range(20):
        patches.set_random_state(seed)
        moved = patches(scan)
        assert torch.equal(moved["image"], moved["label"].float())


def test_the_same_seed_gives_the_same_patch(scan: dict[str, torch.Tensor]) -> None:
    patches = RandSpatiald("image", PATCH, **TURNED)
    first, second = (patches.set_random_state(7)(scan)["image"] for _ in range(2))
    other = patches.set_random_state(8)(scan)["image"]
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


def test_small_organs_come_up_as_often_as_large_ones(scan: dict[str, torch.Tensor]) -> None:
    indexed = ClassesToIndicesd("label", indices_postfix="_indices", num_classes=3, max_samples_per_class=500)(scan)
    shares = {}
    for fraction in (0.0, 1.0):
        patches = RandSpatiald(
            ["image", "label"], PATCH, indices_key="label_indices", foreground_fraction=fraction
        ).set_random_state(0)
        drawn = [patches(indexed) for _ in range(200)]
        assert all(set(patch) == {"image", "label"} for patch in drawn)
        shares[fraction] = np.mean([bool((patch["label"] == 2).any()) for patch in drawn])
    assert shares[1.0] > 0.4
    assert shares[0.0] < 0.3


def test_every_voxel_of_the_scan_is_seen(scan: dict[str, torch.Tensor]) -> None:
    """Also those at the border, which a crop larger than the patch would keep away from."""
    scan["image"] = torch.arange(1, 1 + int(np.prod(SHAPE)), dtype=torch.float32).reshape(1, *SHAPE)
    patches = RandSpatiald("image", PATCH).set_random_state(0)
    seen = torch.zeros(1 + int(np.prod(SHAPE)), dtype=torch.bool)
    for _ in range(600):
        seen[patches(scan)["image"].long().flatten()] = True
    assert seen[1:].float().mean() > 0.97


def test_a_small_scan_lies_in_the_middle() -> None:
    patch = RandSpatiald("image", [10, 12, 8])({"image": torch.ones(1, 4, 12, 5)})["image"]
    assert patch.sum() == 4 * 12 * 5
    assert patch[:, 3:7, :, 1:6].all()


def test_a_case_without_labels_is_cropped_anywhere(scan: dict[str, torch.Tensor]) -> None:
    scan["label"].zero_()
    patches = Compose(
        [
            ClassesToIndicesd("label", indices_postfix="_indices", num_classes=3),
            RandSpatiald(["image", "label"], PATCH, indices_key="label_indices", foreground_fraction=1.0),
        ]
    )
    assert patches(scan)["image"].shape == (1, *PATCH)


def test_where_labels_are_sparse_every_patch_shows_some_and_organs_come_up_as_before(
    scan: dict[str, torch.Tensor],
) -> None:
    ignored = 3
    sparse = torch.full_like(scan["label"], ignored)
    sparse[:, 22:24, 20:22, 16:21] = scan["label"][:, 22:24, 20:22, 16:21]
    draw = Compose(
        [
            ClassesToIndicesd("label", indices_postfix="_indices", num_classes=3),
            RandSpatiald(["image", "label"], (9, 9, 5), mode=["bilinear", "nearest"], indices_key="label_indices",
                         foreground_fraction=0.3, labelled_only=True),
        ]
    )  # fmt: skip
    middles = []
    for seed in range(60):
        label = draw.set_random_state(seed)({**scan, "label": sparse})["label"]
        assert (label != ignored).any(), "nothing is to be learnt from this patch"
        middles.append(int(label[0, 4, 4, 2]))
    assert ignored in label
    assert {0, 2} <= set(middles), "organs and background"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"rotate_range": [30.0]}, "3 angles"),
        ({"zoom_range": [1.4, 0.7]}, "zoom_range"),
        ({"flip_axes": [3]}, "flip_axes"),
        ({"spacing": [1.0, 1.0]}, "spacing"),
        ({"flip_prob": 1.5}, "flip_prob"),
        ({"mode": "cubic"}, "cubic"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        RandSpatiald("image", PATCH, **wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"swapped_labels": [(1, 2, 3)]}, "swapped_labels"),
        ({"swapped_labels": [1, 2]}, "swapped_labels"),
        ({"swapped_labels": [(1, 2), (2, 3)]}, "swapped_labels"),
        ({"rotate_range": [float("nan")] * 3}, "rotate_range"),
        ({"zoom_range": [1.0, float("inf")]}, "zoom_range"),
        ({"spacing": [1.0, 1.0, float("inf")]}, "spacing"),
        ({"translate_range": -1.0}, "translate_range"),
        ({"spatial_size": [16.5, 12, 8]}, "spatial_size"),
        ({"spatial_size": [16]}, "spatial_size"),
        ({"spatial_size": 16}, "spatial_size"),
        ({"rotate_range": 30.0}, "3 angles"),
    ],
)
def test_what_could_only_fail_later_is_refused_at_once(wrong: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        RandSpatiald("image", **{"spatial_size": PATCH, **wrong})  # type: ignore[arg-type]


def test_a_scan_of_another_number_of_axes_is_refused(scan: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ConfigError, match="2 edges"):
        RandSpatiald("image", PATCH[:2])(scan)


@pytest.mark.parametrize("deferred", [False, True])
def test_a_scan_without_label_is_drawn_where_that_is_allowed(scan: dict[str, torch.Tensor], deferred: bool) -> None:
    del scan["label"]
    both = ["label", "image"]
    patches = RandSpatiald(both, PATCH, mode=["nearest", "bilinear"], allow_missing_keys=True, deferred=deferred)
    drawn = patches(scan)
    assert (patches.finish(drawn) if deferred else drawn)["image"].shape == (1, *PATCH)
    with pytest.raises(KeyError, match="label"):
        RandSpatiald(both, PATCH)(scan)


def test_a_patch_as_large_as_its_scan_is_shifted_in_millimetres() -> None:
    """Which its position alone would never do."""
    ramp = torch.stack(torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij"))
    shift = RandSpatiald("image", [40, 40], translate_range=6.0, translate_prob=1.0, spacing=[1.0, 3.0])
    shift.set_random_state(0)
    moved = torch.stack([shift({"image": ramp})["image"][:, 20, 20] - 20 for _ in range(100)])
    largest = moved.abs().amax(dim=0)
    assert 5 < largest[0] <= 6.001
    assert 5 / 3 < largest[1] <= 2.001


def test_pictures_of_wide_labels_swap_sides() -> None:
    label = torch.tensor([[[0, 1, 700], [2, 2, 700]]]).to(torch.uint16)
    always = RandSpatiald("label", [2, 3], mode="nearest", flip_axes=[0], flip_prob=1.0, swapped_labels=[(1, 700)])
    assert always({"label": label})["label"].tolist() == [[[2, 2, 1], [0, 700, 1]]]


def test_an_affine_of_two_axes_is_kept_right() -> None:
    affine = torch.tensor([[2.0, 0, 5], [0, 3, 7], [0, 0, 1]], dtype=torch.float64)
    picture = MetaTensor(torch.stack(torch.meshgrid(torch.arange(20.0), torch.arange(20.0), indexing="ij")), affine)
    patch = RandSpatiald("image", [8, 6]).set_random_state(1)({"image": picture})["image"]
    first = torch.cat([patch[:, 0, 0].double(), torch.ones(1)])
    assert torch.allclose(patch.affine[..., -1], affine @ first)


def test_what_came_before_can_still_be_undone() -> None:
    chain = Compose([Orientationd("image", "LPS"), RandSpatiald("image", PATCH)])
    ramp = MetaTensor(torch.stack(torch.meshgrid(*map(torch.arange, SHAPE), indexing="ij")).float())
    undone = chain.inverse(chain({"image": ramp}))["image"]
    first = torch.cat([undone[:, 0, 0, 0].double(), torch.ones(1)])
    assert torch.allclose(undone.affine[:, -1], first)
    assert undone[0, -1, 0, 0] > undone[0, 0, 0, 0]
