"""How figures are written: names as they are, files whole or not at all."""

import matplotlib
import pytest

from clipjax.analysis.figures.style import RC, new_figure, save_figure
from clipjax.errors import DataError


def test_names_are_no_formulas(tmp_path):
    """A formula that matplotlib cannot parse would stop the drawing; one that it can loses its signs."""
    name = "costs $5, x_1^$ & 100 % <b>"
    with matplotlib.rc_context(RC):
        figure = new_figure(3, 2)
        figure.suptitle(name)
    (path,) = save_figure(figure, tmp_path / "f", ["svg"])
    assert "costs $5, x_1^$ &amp; 100 % &lt;b&gt;" in path.read_text(encoding="utf-8")


def test_what_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "f.svg").mkdir()
    with pytest.raises(DataError, match=r"f\.svg cannot be written \(Is a directory\)"):
        save_figure(new_figure(3, 2), tmp_path / "f", ["svg"])
    assert [path.name for path in tmp_path.iterdir()] == ["f.svg"]
