"""Augmentation and normalization of whole batches, on whatever device they are.

Crops are padded with black pixels and normalization comes last, as in the papers' pipelines.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def crop(x: Tensor, rows: Tensor, columns: Tensor, padding: int) -> Tensor:  # x [B, C, H, W], rows and columns [B]
    """Returns [B, C, H, W]: each image padded with zeros on all sides and cut out from its own row and column on.

    Row and column lie in [0, 2 padding]; `padding` for both is the image itself.
    """
    height, width = x.shape[-2:]
    windows = F.pad(x, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # [B, C, 2p+1, 2p+1, H, W], a view
    return windows[torch.arange(len(x), device=x.device), :, rows, columns]


def flip(x: Tensor, chosen: Tensor) -> Tensor:  # x [B, C, H, W], chosen [B] bool
    """Returns [B, C, H, W] with the chosen images mirrored left to right."""
    return torch.where(chosen[:, None, None, None], x.flip(3), x)


def rotate(x: Tensor, angles: Tensor) -> Tensor:  # x [B, C, H, W], angles [B] in degrees, on the CPU
    """Returns [B, C, H, W]: each image turned counterclockwise about its middle, by the nearest pixel; corners are black.

    Places are counted in whole numbers (2^-20 of a pixel), so that the result is the same on every device.
    """
    height, width = x.shape[-2:]
    one = 2**20
    radians = angles.double() * (math.pi / 180)
    cos, sin = ((one * part).round().long().to(x.device).view(-1, 1, 1) for part in (radians.cos(), radians.sin()))
    down = (2 * torch.arange(height, device=x.device) - (height - 1)).view(1, -1, 1)  # from the middle, in half pixels
    right = (2 * torch.arange(width, device=x.device) - (width - 1)).view(1, 1, -1)
    columns = (cos * right - sin * down + width * one).div(2 * one, rounding_mode="floor")  # [B, H, W]
    rows = (sin * right + cos * down + height * one).div(2 * one, rounding_mode="floor")
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    places = (rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)).flatten(1).unsqueeze(1)
    turned = x.flatten(2).gather(2, places.expand(-1, x.shape[1], -1)).view(x.shape)
    return turned.masked_fill(~inside.unsqueeze(1), 0)


def affine(mean: Tensor, std: Tensor, scale: float, dims: int) -> tuple[Tensor, Tensor]:  # [C] -> [C, 1, ..]
    """Returns (a, b) with a x + b = (x / scale - mean) / std for stored values x of `dims` dimensions."""
    view = (-1,) + (1,) * (dims - 1)
    return (1.0 / (scale * std)).float().view(view), (-mean / std).float().view(view)


def standardize(x: Tensor) -> Tensor:  # [B, ...] float
    """Returns x with mean 0 and deviation 1 per image: (x - mean) / max(std, 1 / sqrt(values of one image)).

    This is TensorFlow's per_image_standardization, on stored values: the floor keeps a uniform image finite.
    """
    dims = tuple(range(1, x.dim()))
    std, mean = torch.std_mean(x, dims, correction=0, keepdim=True)
    return (x - mean) / std.clamp_min(x[0].numel() ** -0.5)


def channel_statistics(x: Tensor, scale: float) -> tuple[Tensor, Tensor]:  # [n, C, ...] -> [C], [C] float64
    """Returns each channel's mean and deviation (of the population) over all images, of stored values over `scale`."""
    dims = tuple(d for d in range(x.dim()) if d != 1)
    total = sum(part.double().sum(dims) for part in x.split(4096))
    count = x.numel() / x.shape[1]
    mean = total / count
    view = (1, -1) + (1,) * (x.dim() - 2)
    squares = sum((part.double() - mean.view(view)).square().sum(dims) for part in x.split(4096))
    return mean / scale, (squares / count).sqrt() / scale
