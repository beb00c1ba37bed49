"""Annotators that need no weights. Each takes (H, W, 3) uint8 and gives a map of the same size."""

import numpy as np

__all__ = ["as_it_is", "canny", "lineart", "scribble", "shuffle"]


def canny(picture: np.ndarray, *, low: float = 100.0, high: float = 200.0) -> np.ndarray:
    """(H, W) uint8, 0 or 255: edges whose gradient passes `high`, and those above `low` that touch them (Canny 1986)."""
    import cv2

    return cv2.Canny(picture, min(low, high), max(low, high))


def scribble(picture: np.ndarray, *, threshold: float = 32.0) -> np.ndarray:
    """(H, W) uint8, 0 or 255: where a fine blur is darker than a coarse one (difference of Gaussians; Winnemoeller 2011), thickened."""
    import cv2

    fine, coarse = (cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma) for sigma in _sigmas(picture))
    darker = (coarse - fine).max(axis=2)
    strokes = np.where(darker > threshold / 2, np.uint8(255), np.uint8(0))
    return cv2.dilate(strokes, np.ones((2, 2), np.uint8))


def _sigmas(picture: np.ndarray) -> tuple[float, float]:
    """Widths of the blurs in pixels, in proportion to the picture."""
    return 0.5, max(1.5, 5.0 * min(picture.shape[:2]) / 512)


def lineart(picture: np.ndarray, *, sigma: float = 6.0, threshold: float = 8.0) -> np.ndarray:
    """(H, W) uint8: how much darker each place is than what lies around it, scaled so that the typical line is half white."""
    import cv2

    values = picture.astype(np.float32)
    darker = (cv2.GaussianBlur(values, (0, 0), sigma) - values).min(axis=2).clip(0, 255)
    lines = darker[darker > threshold]
    typical = max(16.0, float(np.median(lines))) if lines.size else 16.0
    return (darker / typical * 127).clip(0, 255).astype(np.uint8)


def shuffle(picture: np.ndarray, *, seed: float = 0.0) -> np.ndarray:
    """(H, W, 3) uint8: every place takes the colour of another, along a smooth random flow."""
    import cv2

    rng = np.random.default_rng(int(seed))
    height, width = picture.shape[:2]
    flow = np.stack([_smooth_noise(rng, height, width) * (extent - 1) for extent in (width, height)], axis=2)
    along, down = flow[..., 0].astype(np.float32), flow[..., 1].astype(np.float32)
    return cv2.remap(picture, along, down, cv2.INTER_LINEAR)


def _smooth_noise(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """(height, width) float32 in [0, 1], all of the range taken, changing over about a third of the picture."""
    import cv2

    noise = cv2.resize(rng.random((4, 4), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    low, high = float(noise.min()), float(noise.max())
    return (noise - low) / max(1e-6, high - low)


def as_it_is(picture: np.ndarray) -> np.ndarray:
    """The picture itself."""
    return picture
