"""The data inside a page, found without running or trusting the page."""

from __future__ import annotations

from html.parser import HTMLParser

#: The element that holds it.
DATA_ID = "moesim-data"


def is_page(text: str) -> bool:
    """Whether a text is HTML rather than JSON.

    >>> is_page(" <!doctype html>"), is_page("[]")
    (True, False)
    """
    return text.lstrip("\ufeff \t\r\n").startswith("<")


def data_in_page(text: str) -> str:
    """The JSON inside a page that moesim wrote.

    Scripts are text to this reader, and markup inside them ends nothing: what is returned is what a browser
    would call the content of the element.

    Parameters
    ----------
    text
        A page.

    Returns
    -------
    str
        JSON, not read yet.

    Raises
    ------
    ValueError
        If there is no such element, more than one, or it is not closed.

    Examples
    --------
    >>> data_in_page('<script type="application/json" id="moesim-data">{"a": 1}</script>')
    '{"a": 1}'
    """
    reader = _Reader()
    reader.feed(text)
    reader.close()
    if reader.open or len(reader.found) != 1:
        raise ValueError(
            f"has {len(reader.found)} closed elements {DATA_ID!r} where a page of moesim has one"
        )
    return reader.found[0]


class _Reader(HTMLParser):
    """Collects the text of data elements."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.open = False
        self._parts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "script" and values.get("id") == DATA_ID and values.get("type") == "application/json":
            self.open, self._parts = True, []

    def handle_endtag(self, tag: str) -> None:
        if tag == "script" and self.open:
            self.found.append("".join(self._parts))
            self.open = False

    def handle_data(self, data: str) -> None:
        if self.open:
            self._parts.append(data)
