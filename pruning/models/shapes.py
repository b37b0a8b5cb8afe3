"""The shape of one example, without the batch."""

Shape = tuple[int, ...]  # (C, H, W) of an image
