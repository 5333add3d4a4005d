"""Read a page as a browser would, strictly."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "input", "link", "hr", "wbr", "col"}
#: SVG elements may close themselves; html.parser reports these apart.
LOADING = {"src", "href", "xlink:href", "data", "srcset", "poster", "action", "background"}


class Page(HTMLParser):
    """Tags, attributes and text of a page whose every element is closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.stack, self.stack

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        opened = self.stack.pop() if self.stack else None
        assert opened == tag, (tag, opened, self.stack)

    def handle_data(self, data):
        self.text.append((self.stack[-1] if self.stack else "", data))

    @property
    def words(self) -> str:
        """What a reader sees."""
        return " ".join(" ".join(data for tag, data in self.text if tag not in ("script", "style")).split())

    @property
    def data(self):
        """The document inside the page."""
        (found,) = (json.loads(data) for tag, data in self.text if tag == "script")
        return found

    @property
    def linked(self):
        """The document behind the link that saves it."""
        start = "data:application/json;base64,"
        (link,) = (a["href"] for tag, a in self.tags if tag == "a" and a["href"].startswith(start))
        return json.loads(base64.b64decode(link.removeprefix(start)))
