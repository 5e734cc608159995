"""The picture of a video's classes over time."""

import io

import numpy as np
from PIL import Image

from stvit.visual.scores import scores_png

SPANS = [(0.0, 2.0), (2.0, 4.0)]


def drawn(frames, spans=SPANS, scores=((0.9, 0.0), (0.1, 1.0)), names=("run", "jump")):
    content = scores_png(frames, spans[-1][1], spans, np.array(scores), names, "a video")
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def share(picture, colour):
    return (np.abs(picture - np.array(colour)).max(axis=-1) < 40).mean()


def test_the_frames_stand_above_in_the_order_of_time():
    frames = np.stack([np.full((24, 32, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 255, 0))])
    picture = drawn(frames)
    H, W = picture.shape[:2]
    above, left, right = picture[: H // 2], picture[:, : W // 2], picture[:, W // 2 :]
    assert share(above, (255, 0, 0)) > 0.2
    assert share(left, (255, 0, 0)) > 20 * share(right, (255, 0, 0))
    assert share(right, (0, 255, 0)) > 20 * share(left, (0, 255, 0))


def test_names_may_hold_anything_and_frames_may_have_any_shape():
    """Formulas, what matplotlib hides, long names; a column of pixels."""
    frames = np.full((8, 500, 1, 3), 255, np.uint8)
    names = ("$5 and $6", "_private", "\\frac{", "a" * 80)
    picture = drawn(frames, [(0.0, 0.04)], np.full((4, 1), 0.5), names)
    inked = (picture.max(axis=-1) < 80).any(axis=1)[-4 * 25 :]
    assert np.count_nonzero(np.diff(inked.astype(int)) == 1) >= 4  # a line of the legend for each
