"""Several figures on one sheet, as PDF and PNG have them: each stays in its own part."""

import numpy as np
from drawing import plain_figures
from matplotlib import style
from matplotlib.figure import Figure as Canvas

from moesim.reporting.figures import PRINT


def test_every_figure_fits_a_part_of_a_sheet():
    figures = plain_figures()
    with style.context(["default", PRINT.settings()]):
        sheet = Canvas(figsize=(9, 4 * len(figures)), layout="constrained")
        parts = sheet.subfigures(len(figures), 1)
        for figure, part in zip(figures, parts, strict=True):
            figure.draw(part, PRINT)
        sheet.draw_without_rendering()
    for figure, part in zip(figures, parts, strict=True):
        box = part.bbox
        for axes in part.axes:
            inside = axes.get_window_extent()
            least = 10 if axes.get_label() == "<colorbar>" else 50
            assert min(inside.width, inside.height) > least, figure.name
            assert box.x0 <= inside.x0 < inside.x1 <= box.x1, figure.name
            assert box.y0 <= inside.y0 < inside.y1 <= box.y1, figure.name


def test_figures_differ_from_paper_and_from_each_other_in_pixels(tmp_path):
    from matplotlib.image import imread

    seen = set()
    for figure in plain_figures()[:4]:
        for theme, paper in (("print", 1.0), ("dark", 0.1)):
            picture = imread(figure.save(tmp_path / "f.png", theme))[..., :3]
            assert abs(picture[0, 0].max() - paper) < 0.05
            drawn = np.abs(picture - picture[0, 0]).max(axis=2) > 0.3
            assert 0.005 < drawn.mean() < 0.6
            seen.add((figure.name, theme, picture.tobytes()))
    assert len(seen) == 8
