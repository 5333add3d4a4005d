"""The data inside a page, found without running or trusting the page."""

from __future__ import annotations

#: How the element that holds it begins and ends. Nothing else in a page looks like it: text is escaped, and
#: in the data a "<" is written as its code.
OPENING, CLOSING = '<script type="application/json" id="moesim-data">', "</script>"


def is_page(text: str) -> bool:
    """Whether a text is HTML rather than JSON.

    >>> is_page(" <!doctype html>"), is_page("[]")
    (True, False)
    """
    return text[:100].lstrip("\ufeff \t\r\n").startswith("<")


def data_in_page(text: str) -> str:
    """The JSON inside a page that moesim wrote, as text that is not read yet.

    This looks for one element that is written in one way, in time proportional to the page: parsers of HTML
    take seconds to hours over text that is made to keep them busy.

    Raises
    ------
    ValueError
        If there is no such element, more than one, or it is not closed; or if the data was left out.

    Examples
    --------
    >>> data_in_page('<script type="application/json" id="moesim-data">{"a": 1}</script>')
    '{"a": 1}'
    """
    _, opening, after = text.partition(OPENING)
    data, closing, rest = after.partition(CLOSING)
    if not (opening and closing) or OPENING in rest:
        raise ValueError("has no data, or more than once, where a page of moesim has it once")
    if not data.strip():
        raise ValueError("is a page whose data was left out; use what it was made from")
    return data
