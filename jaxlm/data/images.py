"""Images as arrays: files, folders by class, IDX files, and how a model wants them."""

import dataclasses
import gzip
import struct
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxlm.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
IDX = {8: np.uint8, 9: np.int8, 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}  # LeCun's codes of dtypes
NEAREST, LANCZOS, BILINEAR, BICUBIC, BOX, HAMMING = range(6)  # as PIL numbers them, and config files after it


def read_image(image: Any, C: int = 3) -> np.ndarray:
    """uint8 (Y, X, C) of a file, a PIL image, or an array (Y, X), (Y, X, 1), (Y, X, 3) or (Y, X, 4) of uint8, or of
    floats from 0 to 1. C is 1 (grey) or 3 (RGB). Raises UserError for what is no image."""
    from PIL import Image

    named = "the image"
    if isinstance(image, str | Path):
        named = str(image)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(image) as file:
                    file.load()
                    image = file
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError) as e:
            raise UserError(f"{named} cannot be read as an image: {str(e)[:100]}") from None
    if not isinstance(image, Image.Image):
        image = Image.fromarray(_pixels(image, named))
    return np.asarray(image.convert("L"))[..., None] if C == 1 else np.asarray(image.convert("RGB"))


def _pixels(image: Any, named: str) -> np.ndarray:
    """An array that PIL takes."""
    x = np.asarray(image)
    if x.ndim == 3 and x.shape[-1] == 1:
        x = x[..., 0]
    if not (x.ndim == 2 or (x.ndim == 3 and x.shape[-1] in (3, 4))) or not x.size:
        raise UserError(f"{named} must be (height, width) or (height, width, 1, 3 or 4), not of the shape {x.shape}")
    if x.dtype == bool or np.issubdtype(x.dtype, np.floating):
        if not (x >= 0).all() or not (x <= 1).all():  # NaN is neither
            raise UserError(f"{named} of floats must lie between 0 and 1")
        return np.round(x.astype(np.float32) * 255).astype(np.uint8)
    if not np.issubdtype(x.dtype, np.integer) or x.min() < 0 or x.max() > 255:
        raise UserError(f"{named} must be whole numbers from 0 to 255, or floats from 0 to 1")
    return x.astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Preparation:
    """How images become the pixels that a model was trained on: scaled to a size, the middle cut out, (x s - mean) /
    std. A size of one number is that of the shorter side."""

    size: tuple[int, ...] | None  # (height, width) or (shorter side,); None: not scaled
    crop: tuple[int, int] | None = None
    filter: int = BILINEAR
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __call__(self, images: Any) -> np.ndarray:
        """float32 (B, Y, X, C) of one image or of several, as `read_image` takes them."""
        many = isinstance(images, Sequence) and not isinstance(images, str)
        many = many or (isinstance(images, np.ndarray) and images.ndim == 4)
        found = [self.one(image) for image in (images if many else [images])]
        if not found:
            raise UserError("there is no image")
        if len(shapes := {x.shape for x in found}) > 1:
            raise UserError(f"images that are not scaled must be of one size, not {sorted(shapes)[:2]}")
        return np.stack(found)

    def one(self, image: Any) -> np.ndarray:
        from PIL import Image

        x_YXC = read_image(image, len(self.mean))
        if self.size is not None:
            Y, X = x_YXC.shape[:2]
            if len(self.size) == 1:
                short = min(Y, X)
                Y, X = (int(self.size[0] * n / short) for n in (Y, X))
            else:
                Y, X = self.size
            grey = x_YXC.shape[-1] == 1
            scaled = Image.fromarray(x_YXC[..., 0] if grey else x_YXC).resize((X, Y), Image.Resampling(self.filter))
            x_YXC = np.asarray(scaled)[..., None] if grey else np.asarray(scaled)
        if self.crop is not None:
            (Y, X), (y, x) = x_YXC.shape[:2], self.crop
            if y > Y or x > X:
                raise UserError(f"an image of {Y} x {X} is too small to cut {y} x {x} out of it")
            top, left = (Y - y) // 2, (X - x) // 2
            x_YXC = x_YXC[top : top + y, left : left + x]
        scaled = x_YXC.astype(np.float32) * np.float32(self.scale)
        return (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)


def preparation(
    said: Mapping[str, Any], Y: int, X: int, C: int, where: str = "preprocessor_config.json"
) -> Preparation:
    """What a preprocessor_config.json says, of a model of images of Y x X with C channels; {} is ViT's. Raises
    UserError, naming the file `where`, for values of other kinds."""

    def size(key: str, default: Any) -> tuple[int, ...]:
        found = said.get(key) or default
        if isinstance(found, Mapping):
            found = [found[name] for name in ("height", "width", "shortest_edge") if name in found]
        elif type(found) is int:
            found = [found] if key == "size" and said.get("do_center_crop") else [found, found]
        if not isinstance(found, list) or len(found) not in (1, 2) or not all(type(n) is int and n > 0 for n in found):
            raise UserError(f"{where}: {key} is no size of images: {str(said.get(key))[:60]}")
        return tuple(found)

    def numbers(key: str, default: float) -> tuple[float, ...]:
        found = said.get(key) if said.get("do_normalize", True) else None
        plain = {"image_mean": 0.0, "image_std": 1.0}[key]
        found = ([default] if said.get("do_normalize", True) else [plain]) * C if found is None else found
        if not isinstance(found, list) or len(found) != C or not all(type(x) in (int, float) for x in found):
            raise UserError(f"{where}: {key} must have a number for each of {C} channels")
        if key == "image_std" and not all(x > 0 for x in found):
            raise UserError(f"{where}: image_std must be positive")
        return tuple(map(float, found))

    filter, scale = said.get("resample", BILINEAR), said.get("rescale_factor", 1 / 255)
    if type(filter) is not int or filter not in range(6):
        raise UserError(f"{where}: resample must be one of PIL's filters, 0 to 5, not {str(filter)[:20]}")
    if type(scale) not in (int, float):
        raise UserError(f"{where}: rescale_factor must be a number, not {str(scale)[:20]}")
    cut = said.get("do_center_crop", False)
    return Preparation(
        size("size", {"height": Y, "width": X}) if said.get("do_resize", True) else None,
        (size("crop_size", {"height": Y, "width": X}) * 2)[:2] if cut else None,  # pyright: ignore
        filter,
        float(scale) if said.get("do_rescale", True) else 1.0,
        numbers("image_mean", 0.5),
        numbers("image_std", 0.5),
    )


def read_idx(path: str | Path) -> np.ndarray:
    """The array of an IDX file, as MNIST's are, plain or gzipped. Raises UserError for a file that is none or is cut
    short."""
    path = Path(path)
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    except (OSError, EOFError, gzip.BadGzipFile) as e:
        raise UserError(f"{path} cannot be read: {str(e)[:100]}") from None
    if len(raw) < 4 or raw[:2] != b"\0\0" or raw[2] not in IDX or len(raw) < 4 + 4 * raw[3]:
        raise UserError(f"{path} is no IDX file")
    dtype, shape = np.dtype(IDX[raw[2]]), struct.unpack(f">{raw[3]}I", raw[4 : 4 + 4 * raw[3]])
    wanted, found = int(np.prod(shape, dtype=object)) * dtype.itemsize, len(raw) - 4 - 4 * raw[3]
    if wanted != found:
        raise UserError(f"{path} says {' x '.join(map(str, shape))}, which is {wanted} bytes, and has {found}")
    return np.frombuffer(raw, dtype, offset=4 + 4 * raw[3]).reshape(shape).astype(dtype.newbyteorder("="))


def read_folder(path: str | Path) -> tuple[list[Path], list[int], list[str]]:
    """The images of a folder that has one folder for each class: paths, numbers of their classes, and the classes'
    names in order. Raises UserError where there are none."""
    path = Path(path)
    names = sorted(one.name for one in path.iterdir() if one.is_dir()) if path.is_dir() else []
    files = [sorted(f for f in (path / name).rglob("*") if f.suffix.lower() in SUFFIXES) for name in names]
    if not any(files):
        raise UserError(f"{path} has no folders of images, one for each class")
    if empty := [name for name, found in zip(names, files) if not found]:
        raise UserError(f"{path / empty[0]} has no image")
    return [f for found in files for f in found], [i for i, found in enumerate(files) for _ in found], names
