"""The paper's pictures, drawn from our own numbers: `python -m paper_figures FIGURE`."""
