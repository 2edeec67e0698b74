"""Images: files, arrays, IDX, folders, and how they become pixels."""

import gzip
import struct

import numpy as np
import pytest
from PIL import Image

from jaxlm.data.images import BICUBIC, Preparation, preparation, read_folder, read_idx, read_image
from jaxlm.errors import UserError


def pixels(Y=6, X=4, C=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (Y, X, C)).astype(np.uint8)


def test_files_arrays_and_pictures_are_the_same_pixels(tmp_path):
    x = pixels()
    Image.fromarray(x).save(tmp_path / "x.png")
    for image in (tmp_path / "x.png", str(tmp_path / "x.png"), Image.fromarray(x), x, x / 255, x.astype(np.int64)):
        np.testing.assert_array_equal(read_image(image), x)
    np.testing.assert_array_equal(read_image(x[..., 0]), np.repeat(x[..., :1], 3, -1))
    assert read_image(x, 1).shape == (6, 4, 1)
    np.testing.assert_array_equal(read_image(x[..., :1], 1), x[..., :1])


@pytest.mark.parametrize(
    "image, line",
    [
        (np.zeros((2, 2, 2)), "not of the shape"),
        (np.zeros((0, 2, 3)), "not of the shape"),
        (np.full((2, 2), np.nan), "between 0 and 1"),
        (np.full((2, 2), 1.5), "between 0 and 1"),
        (np.full((2, 2), 256), "from 0 to 255"),
        ("absent.png", "absent.png cannot be read"),
    ],
)
def test_what_is_no_image(image, line):
    with pytest.raises(UserError, match=line):
        read_image(image)


def test_broken_files(tmp_path):
    Image.fromarray(pixels(64, 64)).save(tmp_path / "x.png")
    raw = (tmp_path / "x.png").read_bytes()
    for name, part in {"half.png": raw[: len(raw) // 2], "empty.png": b"", "text.png": b"no picture"}.items():
        (tmp_path / name).write_bytes(part)
        with pytest.raises(UserError, match=f"{name} cannot be read as an image"):
            read_image(tmp_path / name)


def test_preparation_scales_cuts_and_norms():
    said = {"size": {"shortest_edge": 8}, "crop_size": 6, "do_center_crop": True, "resample": BICUBIC}
    said |= {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    prepare, x = preparation(said, 6, 6, 3), pixels(10, 15)
    (found,) = prepare(x)
    scaled = np.asarray(Image.fromarray(x).resize((12, 8), Image.Resampling.BICUBIC))[1:7, 3:9]
    np.testing.assert_allclose(found, (scaled / 255 - [0.1, 0.2, 0.3]) / [0.4, 0.5, 0.6], atol=1e-6)
    assert prepare([x, pixels(20, 9)]).shape == (2, 6, 6, 3)


def test_what_a_file_leaves_out_is_as_vit_has_it():
    assert preparation({}, 24, 16, 1) == Preparation((24, 16), mean=(0.5,), std=(0.5,))
    plain = preparation({"do_resize": False, "do_rescale": False, "do_normalize": False}, 8, 8, 3)
    np.testing.assert_array_equal(plain(pixels())[0], pixels())
    assert preparation({"size": 32}, 8, 8, 3).size == (32, 32)


@pytest.mark.parametrize(
    "said",
    [
        {"size": "big"},
        {"size": {"height": 0, "width": 2}},
        {"image_mean": [0.5]},
        {"image_std": [0.5, 0, 0.5]},
        {"resample": 9},
        {"rescale_factor": "x"},
    ],
)
def test_settings_that_are_none(said):
    with pytest.raises(UserError, match=f"here.json: {next(iter(said))}"):
        preparation(said, 8, 8, 3, "here.json")


def test_sizes_that_differ_or_are_too_small():
    with pytest.raises(UserError, match="of one size"):
        Preparation(None)([pixels(2, 2), pixels(2, 3)])
    with pytest.raises(UserError, match="too small to cut 9 x 9"):
        Preparation(None, (9, 9))(pixels())
    with pytest.raises(UserError, match="no image"):
        Preparation(None)([])


def test_idx(tmp_path):
    x = np.arange(24, dtype=">i4").reshape(2, 3, 4)
    raw = struct.pack(">HBB3I", 0, 12, 3, 2, 3, 4) + x.tobytes()
    (tmp_path / "x").write_bytes(raw)
    (tmp_path / "x.gz").write_bytes(gzip.compress(raw))
    for name in ("x", "x.gz"):
        np.testing.assert_array_equal(read_idx(tmp_path / name), x)
    broken = {"short": raw[:-1], "none": b"abcd", "gz": gzip.compress(raw)[:20], "empty": b"", "long": raw + b"0"}
    for name, part in broken.items():
        (tmp_path / name).write_bytes(part)
        with pytest.raises(UserError, match=name):
            read_idx(tmp_path / name)


def test_a_folder_for_each_class(tmp_path):
    for name in ("cat/1.png", "cat/deep/2.png", "dog/1.PNG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels()).save(tmp_path / name)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    files, labels, names = read_folder(tmp_path)
    assert [file.name for file in files] == ["1.png", "2.png", "1.PNG"]
    assert (labels, names) == ([0, 0, 1], ["cat", "dog"])
    (tmp_path / "owl").mkdir()
    with pytest.raises(UserError, match="owl has no image"):
        read_folder(tmp_path)
    with pytest.raises(UserError, match="one for each class"):
        read_folder(tmp_path / "owl")
