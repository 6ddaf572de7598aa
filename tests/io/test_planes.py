import re
import struct
import zlib

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, PngImagePlugin

from unet_bundle.errors import ConfigError, InputError
from unet_bundle.io import LoadImaged, find_images, wanted_channels

GREY = np.arange(12 * 7, dtype=np.uint8).reshape(7, 12)  # rows x columns
COLOUR = np.stack([GREY, GREY + 50, 200 - GREY], axis=-1)


def _load(path, channels=None):
    return LoadImaged(keys="image", channels=channels)({"image": str(path)})["image"]


def _png(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.tif", "A.TIFF"])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_grey_is_one_channel_x_to_the_right_and_y_downwards(tmp_path, name, kind):
    values = GREY.astype(kind) * (200 if kind is np.uint16 else 1)
    path = tmp_path / name
    if name == "a.png":
        _png(path, values)
    else:
        tifffile.imwrite(path, values)
    image = _load(path, channels=1)
    assert image.shape == (1, 12, 7)
    np.testing.assert_array_equal(image[0].numpy(), values.T)
    np.testing.assert_array_equal(image.affine.numpy(), np.eye(4))


def test_resolution_is_left_aside_since_it_is_a_printers(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", GREY, resolution=(300, 300), resolutionunit="INCH")
    _png(tmp_path / "a.png", GREY, dpi=(72, 72))
    for name in ("a.tif", "a.png"):
        np.testing.assert_array_equal(_load(tmp_path / name).affine.numpy(), np.eye(4))


def test_a_mask_of_one_bit_is_0_and_1(tmp_path):
    values = GREY % 3 == 1
    Image.fromarray(values).save(tmp_path / "label.png")
    np.testing.assert_array_equal(_load(tmp_path / "label.png")[0].numpy(), values.T)


def test_grey_samples_of_four_bits_in_the_file_are_not_stretched(tmp_path):
    """Pillow writes no such file, but reads one with all values times 17."""
    values = (GREY[:, :8] % 16).astype(np.uint8)
    rows = b"".join(b"\0" + bytes(int(a) << 4 | int(b) for a, b in row.reshape(-1, 2)) for row in values)

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 8, 7, 4, 0, 0, 0, 0)
    contents = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    (tmp_path / "label.png").write_bytes(b"\x89PNG\r\n\x1a\n" + contents)
    np.testing.assert_array_equal(_load(tmp_path / "label.png")[0].numpy(), values.T)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_colour_is_three_channels_and_opaque_alpha_is_dropped(tmp_path, ending):
    alpha = np.full((7, 12, 1), 255, np.uint8)
    for name, array in (("rgb", COLOUR), ("rgba", np.concatenate([COLOUR, alpha], axis=-1))):
        path = tmp_path / f"{name}.{ending}"
        if ending == "png":
            _png(path, array)
        else:
            tifffile.imwrite(path, array, photometric="rgb")
        image = _load(path, channels="RGB")
        np.testing.assert_array_equal(image.numpy(), np.moveaxis(COLOUR, (0, 1, 2), (2, 1, 0)))


def test_grey_and_colour_meet_only_where_nothing_is_lost(tmp_path):
    grey, equal = _png(tmp_path / "grey.png", GREY), _png(tmp_path / "equal.png", np.stack([GREY] * 3, axis=-1))
    colour = _png(tmp_path / "colour.png", COLOUR)
    torch.testing.assert_close(_load(grey, "RGB"), _load(equal, "RGB"))
    torch.testing.assert_close(_load(equal, 1), _load(grey, 1))
    assert _load(equal, "RGB").affine.shape == (4, 4)
    with pytest.raises(InputError, match=r"^colour\.png has 3 channels, the model needs 1"):
        _load(colour, 1)
    with pytest.raises(InputError, match=r"^grey\.png has 1 channel, the model needs 3"):
        _load(grey, 3)  # three channels that nobody called colours
    with pytest.raises(ConfigError, match="'RGB'"):
        LoadImaged(keys="image", channels="BGR")


def test_a_palette_is_read_as_the_colours_it_stands_for(tmp_path):
    picture = Image.fromarray(COLOUR).quantize(16)
    picture.save(tmp_path / "p.png")
    expected = np.asarray(picture.convert("RGB"))
    np.testing.assert_array_equal(_load(tmp_path / "p.png").numpy(), np.moveaxis(expected, (0, 1, 2), (2, 1, 0)))


def _palette(path, colours):
    picture = Image.fromarray((GREY % 3).astype(np.uint8), mode="P")
    picture.putpalette([part for colour in colours for part in colour])
    picture.save(path)
    return path


@pytest.mark.parametrize("colours", [[(0, 0, 0), (128, 0, 0), (0, 128, 0)], [(0,) * 3, (127,) * 3, (255,) * 3]])
def test_a_palette_is_no_label_map_for_its_indices_would_become_colours_or_other_greys(tmp_path, colours):
    path = _palette(tmp_path / "label.png", colours)
    with pytest.raises(InputError, match=r"^label\.png is a palette PNG: save the indices .* as grey$"):
        _load(path, 1)
    with pytest.raises(InputError, match=rf"^{tmp_path.name}/label\.png is a palette PNG"):
        LoadImaged(keys="label", channels=1)({"label": str(path)})


def test_a_palette_whose_greys_are_its_indices_is_grey(tmp_path):
    path = _palette(tmp_path / "label.png", [(value,) * 3 for value in range(3)])
    np.testing.assert_array_equal(_load(path, 1)[0].numpy(), (GREY % 3).T)


@pytest.mark.parametrize(("samples", "extra"), [(2, "unspecified"), (4, "unspecified"), (4, "unassalpha")])
def test_a_further_sample_of_a_tiff_is_alpha_only_if_the_file_says_so(tmp_path, samples, extra):
    array = np.full((7, 12, samples), 255, np.uint8)
    photometric = "minisblack" if samples == 2 else "rgb"
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, array, photometric=photometric, planarconfig="contig", extrasamples=[extra])
    if extra == "unassalpha":
        assert _load(path).shape == (3, 12, 7)
        return
    with pytest.raises(InputError, match=rf"^a\.tif has {samples} samples a pixel: save it in grey or RGB"):
        _load(path)


def test_whole_numbers_that_float32_would_round_are_refused(tmp_path):
    values = GREY.astype(np.uint32)
    values[0, 0] = 2**24
    tifffile.imwrite(tmp_path / "exact.tif", values)
    assert int(_load(tmp_path / "exact.tif")[0, 0, 0]) == 2**24
    values[0, 0] += 1
    tifffile.imwrite(tmp_path / "label.tif", values)
    with pytest.raises(InputError, match=r"^label\.tif holds the whole number 16777217, which float32 rounds"):
        _load(tmp_path / "label.tif")


def test_the_only_file_of_a_case_may_be_a_picture_in_colour(tmp_path):
    """As nnU-Net has them: case_0000.png holds red, green and blue."""
    colour, grey = (_png(tmp_path / f"{name}_0000.png", array) for name, array in (("a", COLOUR), ("b", GREY)))
    load = LoadImaged(keys="image", channels="RGB")
    for path in (colour, grey):
        torch.testing.assert_close(load({"image": [str(path)]})["image"], _load(path, "RGB"))


def _animated(path):
    Image.fromarray(GREY).save(path, save_all=True, append_images=[Image.fromarray(GREY[::-1].copy())])


def _turned(path):
    exif = Image.Exif()
    exif[274] = 6
    _png(path, GREY, exif=exif)


def _key_colour(path):
    _png(path, COLOUR, transparency=(0, 50, 200))


def _cut_short(path):
    _png(path, np.random.RandomState(0).randint(0, 255, (90, 80), np.uint8))
    path.write_bytes(path.read_bytes()[:3000])


def _deep_colour(path):
    """16 bits in colour, whose lower bytes Pillow drops: only the header counts here."""
    _png(path, COLOUR)
    contents = bytearray(path.read_bytes())
    contents[24] = 16
    path.write_bytes(contents)


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("t.png", lambda p: _png(p, np.dstack([COLOUR, GREY])), "not opaque"),
        ("k.png", _key_colour, "not opaque"),
        ("n.png", _animated, "animated"),
        ("o.png", _turned, "turned or mirrored"),
        ("d.png", _deep_colour, "16 bits"),
        ("x.png", lambda p: p.write_bytes(b"GIF89a" + bytes(40)), "is not a PNG file"),
        ("c.png", _cut_short, "damaged or cut short"),
        ("m.tif", lambda p: tifffile.imwrite(p, np.stack([GREY] * 4), photometric="minisblack"), "has 4 pages"),
        ("w.tif", lambda p: tifffile.imwrite(p, GREY, photometric="miniswhite"), "MINISWHITE"),
        ("a.tif", lambda p: tifffile.imwrite(p, np.dstack([COLOUR, GREY]), photometric="rgb"), "not opaque"),
        ("f.tif", lambda p: tifffile.imwrite(p, np.full((5, 6), np.nan, np.float32)), "NaN"),
        ("z.tif", lambda p: tifffile.imwrite(p, GREY.astype(np.complex64)), "not real numbers"),
        ("y.tif", lambda p: p.write_bytes(b"nothing"), "is not a TIFF file"),
        ("l.tif", lambda p: Image.fromarray(GREY).save(p, compression="tiff_lzw"), "LZW: install the package imageco"),
        ("missing.png", lambda p: None, "does not exist"),  # noqa: ARG005 - one signature for all
    ],
)
def test_what_is_in_doubt_is_refused_by_name(tmp_path, name, write, message):
    write(tmp_path / name)
    with pytest.raises(InputError, match=rf"^{re.escape(name)} .*{message}"):
        _load(tmp_path / name)


def test_channels_in_files_of_their_own_are_stacked(tmp_path):
    paths = [str(_png(tmp_path / f"cell_000{i}.png", GREY + i)) for i in range(3)]
    image = LoadImaged(keys="image", channels=3)({"image": paths})["image"]
    assert image.shape == (3, 12, 7)
    assert [int(channel[0, 0]) for channel in image] == [0, 1, 2]
    assert image.meta["filename_or_obj"].endswith("cell.png")
    small = str(_png(tmp_path / "cell_0003.png", GREY[:3]))
    with pytest.raises(InputError, match=r"cell_0003\.png has 12 x 3 pixels, cell_0000\.png has 12 x 7"):
        LoadImaged(keys="image")({"image": [paths[0], small]})


def test_pictures_of_the_nuclei_are_read_as_stored(shared_data):
    folder = shared_data("dsb2018_nuclei")
    for case in find_images(folder / "images")[:12]:
        image = _load(case["image"], "RGB")
        stored = np.asarray(Image.open(case["image"]))
        np.testing.assert_array_equal(image.numpy(), np.moveaxis(stored[..., :3], (0, 1, 2), (2, 1, 0)))


def test_red_green_and_blue_are_a_colour_picture():
    assert wanted_channels(["red", "Green", "blue"]) == "RGB"
    assert wanted_channels(["T1", "T2", "FLAIR"]) == 3


def test_text_in_a_png_does_not_matter(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("patient", "nobody")
    np.testing.assert_array_equal(_load(_png(tmp_path / "a.png", GREY, pnginfo=info))[0].numpy(), GREY.T)
