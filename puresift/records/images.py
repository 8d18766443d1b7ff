"""Image tensors as PNG files."""

from __future__ import annotations

import base64
import struct
import zlib

from torch import Tensor, uint8
from torch.nn import functional as F

from puresift.errors import SiftError

_SIDE = 160  # pixels, the longest side


def data_uri(image: Tensor) -> str:
    """An image [H, W] or [1 or 3, H, W] as a PNG in a data URI; values outside [0, 1] are rescaled into it."""
    if image.ndim == 2:
        image = image[None]
    if image.ndim != 3 or image.shape[0] not in (1, 3):
        raise SiftError(f"an image is a tensor [H, W] or [1 or 3, H, W], got {list(image.shape)}")
    pixels = image.detach().cpu().float() / (255 if image.dtype == uint8 else 1)
    low, high = float(pixels.min()), float(pixels.max())
    if low < 0 or high > 1:
        pixels = (pixels - low) / max(high - low, 1e-12)
    if (scale := _SIDE / max(pixels.shape)) < 1:
        pixels = F.interpolate(pixels[None], scale_factor=scale, mode="area")[0]
    rows = (pixels * 255).round().byte().permute(1, 2, 0).contiguous()
    height, width, channels = rows.shape
    raw = b"".join(b"\0" + bytes(row.flatten().tolist()) for row in rows)

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(png).decode()
