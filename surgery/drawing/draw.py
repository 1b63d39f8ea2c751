"""Draw: write a network's activation calls to a file that a browser shows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from surgery.drawing.page import page
from surgery.drawing.site_values import Given
from surgery.drawing.subjects import Drawable, drawing_of
from surgery.errors import BadValue
from surgery.files import write_text
from surgery.look.site import Sites


def draw(
    network: Drawable,
    path: str | Path,
    *,
    after: nn.Module | Sites | None = None,
    example: Any = None,
    values: Given | None = None,
    values_name: str = "value",
    title: str = "",
) -> Path:
    """Draw the activation calls of a network into an HTML file, which needs nothing else; returns its path.

    A column is a stage of the network, a row a block in order of execution, a cell an activation call. Of a plan or a
    report, of an edited network, and of a network with another one `after` it, every call is shown before and after.
    Pointing at a cell tells what is known of the call, clicking it copies the rule that selects it. Below, the same
    calls are listed in a table. The file is the same, byte for byte, each time.

    `example` is the input that models are run on, see `find_sites`. `values` are drawn as bars: a number for each call
    (a `Site`, or its name) or each block (its path), called `values_name`; or what measured them on this network:
    `pruning.dead_neurons`, the front of `choose`, the table of `time_blocks`. They are of the network before an edit;
    an edited model alone is drawn as it is if there are some. `title` is shown instead of the class of the model.

    Raises:
        BadValue: the name does not end in .html, `after` is given for a plan or a report, or `values` are not finite.
        UnknownName: a value is for something that is not a call or a block of the network.
        CannotLook: the network does not run, see `find_sites`.

    >>> surgery.draw(report, "network.html")
    """
    made = html_path(path)
    drawing = drawing_of(network, after, example, undone=values is None)
    drawing = replace(drawing, title=title or drawing.title)
    if values is not None:
        drawing = drawing.with_values(values, values_name)
    made.parent.mkdir(parents=True, exist_ok=True)
    write_text(made, page(drawing))
    return made


def html_path(path: str | Path) -> Path:
    """The path of a drawing.

    Raises:
        BadValue: it does not end in .html.
    """
    made = Path(path)
    if made.suffix.lower() != ".html":
        raise BadValue("A network is drawn as HTML.", asked=str(path), try_="a name in .html")
    return made
