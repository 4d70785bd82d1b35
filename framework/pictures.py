"""Pictures: from a file to a PIL image in mode L or RGB, or the reason why not; the same in training and prediction."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from framework.contracts import UnreadableImage
from framework.errors import FwError

PICTURE_EXTENSIONS = frozenset(
    (".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp")
)
"""What Pillow opens without further packages and photographs are kept in."""


def read_picture(file: Path) -> Image.Image:
    """The whole picture, decoded to its last byte, as mode L or RGB.

    Raises:
        UnreadableImage: the file is missing, truncated, damaged, or of no known format.
    """
    try:
        with Image.open(file) as image:
            image.load()
            return gray_or_rgb(ImageOps.exif_transpose(image))
    except UnreadableImage:
        raise
    except FileNotFoundError:
        raise UnreadableImage("there is no such file") from None
    except UnidentifiedImageError:
        raise UnreadableImage(_why_unknown(file)) from None
    except Exception as error:  # a damaged file makes decoders raise nearly anything
        raise UnreadableImage(_clause(error)) from error


def gray_or_rgb(image: Image.Image) -> Image.Image:
    """An image in mode L or RGB, as a viewer would show it.

    Sixteen-bit grey is scaled by 1/257, so that 65535 becomes 255 (Pillow's own conversion clips at 255). What is
    transparent lies on white. CMYK, LAB, palettes and the like become RGB.

    Raises:
        UnreadableImage: floating-point pixels, whose range no format states.
    """
    if image.mode in ("L", "RGB"):
        return image
    if image.mode == "I" or image.mode.startswith("I;16"):
        pixels = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))
    if image.mode == "F":
        raise UnreadableImage("its pixels are floating-point numbers of no stated range; save it with 8 or 16 bits")
    if image.mode == "1":
        return image.convert("L")
    if image.has_transparency_data:
        return _on_white(image)
    return image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    opaque = Image.new("RGBA", image.size, "white")
    opaque.alpha_composite(image.convert("RGBA"))
    return opaque.convert("L" if image.mode in ("LA", "La") else "RGB")


def _why_unknown(file: Path) -> str:
    size = file.stat().st_size
    return "the file is empty" if size == 0 else f"its {size} bytes are in no image format that Pillow knows"


def _clause(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def pictures_in(path: Path) -> list[Path]:
    """The file itself, or the pictures of a folder and those below it, sorted.

    Raises:
        FwError: there is nothing at `path`, or no picture in it.
    """
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in PICTURE_EXTENSIONS)
        if found:
            return found
        raise FwError(
            f"the folder {path} holds no pictures", f"pictures end in {', '.join(sorted(PICTURE_EXTENSIONS))}"
        )
    if not path.exists():
        raise FwError(f"there is no file {path}")
    return [path]
