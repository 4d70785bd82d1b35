"""Thumbnails: small copies of a data set's images, as addresses that hold the picture itself."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

    from framework.contracts import ImageLike

SIDE = 160
"""Pixels of the longer side, at most."""


def thumbnail(image: ImageLike) -> str:
    """A `data:` address of an image, as JPEG; one that is much smaller is enlarged without being blurred.

    Args:
        image: PIL, or a uint8 tensor (C, H, W), of whose channels the first three are shown, or the first alone.

    Raises:
        UnreadableImage: its pixels have no stated range.
    """
    from PIL import Image

    from framework.pictures import gray_or_rgb

    small = gray_or_rgb(image.copy() if isinstance(image, Image.Image) else _picture(image))
    small.thumbnail((SIDE, SIDE))
    times = max(1, SIDE // max(small.size))
    larger = small.resize((small.width * times, small.height * times), Image.Resampling.NEAREST)
    file = io.BytesIO()
    larger.save(file, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _picture(image: Tensor) -> Image:
    from PIL import Image

    shown = image[:3] if len(image) >= 3 else image[0]
    pixels = shown.permute(1, 2, 0) if shown.dim() == 3 else shown
    return Image.fromarray(pixels.contiguous().cpu().numpy())
