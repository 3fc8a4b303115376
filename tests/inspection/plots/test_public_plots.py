"""No public plot goes without a test that it draws."""

from pathlib import Path

import pyro_vmtl.inspection
from pyro_vmtl.inspection import plots


def test_every_public_plot_is_tried_and_handed_on() -> None:
    here = Path(__file__).parent
    tried = "".join(file.read_text() for file in here.glob("test_every_*_plot.py"))
    for name in plots.__all__:
        assert f'"{name}"' in tried, name
    assert set(plots.__all__) <= set(pyro_vmtl.inspection.__all__)
