"""A folder of pictures, which the tests of this folder load."""

from pathlib import Path

import pytest

from tests.recipes.data.pictures import grey
from tests.recipes.data.written import picture, write_tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of 120-pixel images, four and two copies; the grey value identifies each."""
    pictures = {
        f"{part}/{name}/{copy}.png": picture(grey(label, copy), 120)
        for part, copies in (("train", 4), ("val", 2))
        for label, name in enumerate(("ant", "bee"))
        for copy in range(copies)
    }
    return write_tree(tmp_path / "large", pictures)
