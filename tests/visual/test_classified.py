"""Pictures of classification: the page of images, and the confusion matrix."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from stvit.errors import UserError
from stvit.visual.confusion import MOST_CLASSES, confusion_png
from stvit.visual.gallery import Classified, draw_gallery

RED = np.full((32, 24, 3), (250, 0, 0), np.uint8)


def classified(predicted: str, name: str = "x.jpg") -> Classified:
    return Classified(RED, "cat", predicted, 0.9, name)


def has_colour(page: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(page) == colour).all(axis=2).any())


def test_a_page_shows_the_images_and_marks_right_and_wrong():
    right, wrong = (draw_gallery({"some": [classified(name)]}) for name in ("cat", "dog"))
    assert has_colour(right, (250, 0, 0))
    assert has_colour(right, (0, 110, 40))
    assert not has_colour(right, (180, 20, 20))
    assert has_colour(wrong, (180, 20, 20))


def test_rows_and_sections_make_a_page_taller_but_not_wider():
    one, row, two_rows = (draw_gallery({"some": [classified("cat")] * count}) for count in (1, 4, 5))
    assert one.size == row.size
    assert (two_rows.width, two_rows.height > row.height) == (row.width, True)
    assert draw_gallery({"none": [], "some": [classified("cat")]}).size == one.size
    assert draw_gallery({"a": [classified("cat")], "b": [classified("cat")]}).height > one.height


def test_names_that_are_too_long_stay_inside_their_tile():
    page = np.asarray(draw_gallery({"some": [classified("cat", "a_very_long_name_of_a_file_" * 9)]}))
    assert (page[:, 16 + 200 + 8 :][60:] == 255).all()  # nothing right of the first tile, below the title


def test_a_page_of_nothing_is_refused():
    with pytest.raises(UserError, match="no classified image"):
        draw_gallery({"none": []})


def test_a_confusion_matrix_is_dark_where_classes_are_told_apart():
    def picture(counts):
        content = confusion_png(np.array(counts), ("cat", "dog"), ("cat", "dog"), "title")
        return np.asarray(Image.open(io.BytesIO(content)).convert("L"), dtype=float)

    told_apart, taken_for_another = picture([[9, 0], [0, 9]]), picture([[0, 9], [9, 0]])
    assert told_apart.shape == taken_for_another.shape
    h, w = told_apart.shape
    corner = (slice(h // 4, h // 3), slice(w // 5, w // 4))  # inside the cell of cats that are taken for cats
    assert told_apart[corner].mean() < 100 < 200 < taken_for_another[corner].mean()


@pytest.mark.parametrize("classes", [0, MOST_CLASSES + 1])
def test_matrices_that_do_not_fit_a_page_are_refused(classes):
    names = [str(k) for k in range(classes)]
    with pytest.raises(UserError, match=f"1 to {MOST_CLASSES} classes fit"):
        confusion_png(np.zeros((classes, classes), int), names, names)
