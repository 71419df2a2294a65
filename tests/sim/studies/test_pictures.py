"""A picture is written as PNG, at its resolution, and as PDF."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sim.studies.pictures import save


def test_a_picture_is_two_files_and_its_resolution_is_that_of_the_first(tmp_path):
    figure = Figure(figsize=(2, 1))
    FigureCanvasAgg(figure)
    png, pdf = save(figure, tmp_path / "small.picture", dpi=50)
    assert (png.name, pdf.name) == ("small.picture.png", "small.picture.pdf")
    assert pdf.read_bytes().startswith(b"%PDF")
    head = png.read_bytes()[16:24]  # width and height in the PNG's first chunk
    assert (int.from_bytes(head[:4], "big"), int.from_bytes(head[4:], "big")) == (100, 50)
