"""A page, read as a browser reads it: its elements, each with the text inside it."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "input"}  # elements without an end


@dataclass(eq=False)
class Element:
    """An element: its tag, its attributes, and what is inside."""

    tag: str
    attributes: dict[str, str] = field(default_factory=dict)
    children: list[Element] = field(default_factory=list)
    own: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The text of this element and of those inside it, in order of their ends."""
        return "".join([*(child.text for child in self.children), *self.own])

    @property
    def classes(self) -> set[str]:
        return set(self.attributes.get("class", "").split())

    def all(self, **wanted: str) -> list[Element]:
        """The elements inside that have these attributes; `tag` and `kind`, one of the classes, are facts as well."""
        found = [self] if self._has(wanted) else []
        return found + [inner for child in self.children for inner in child.all(**wanted)]

    def one(self, **wanted: str) -> Element:
        (found,) = self.all(**wanted)
        return found

    def _has(self, wanted: dict[str, str]) -> bool:
        facts = self.attributes | {"tag": self.tag}
        return all(
            value in self.classes if key == "kind" else facts.get(key.rstrip("_")) == value
            for key, value in wanted.items()
        )


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open = [Element("page")]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        self.open += [element] if tag not in _VOID else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> ends something else"

    def handle_data(self, data: str) -> None:
        self.open[-1].own.append(data)


def read(html: str) -> Element:
    """The root of a page. Every element but the void ones must end where it should."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert len(reader.open) == 1, f"not ended: {[element.tag for element in reader.open[1:]]}"
    return reader.open[0]
