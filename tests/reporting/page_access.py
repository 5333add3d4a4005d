"""What keeps a page from those who do not see it or use no mouse, found in its structure and colours."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "img", "input", "link", "hr", "wbr", "col"}
HEADINGS = {f"h{level}": level for level in range(1, 7)}


class Access(HTMLParser):
    """Faults of a page; none if it can be read and used by everybody as far as structure tells."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.faults: list[str] = []
        self.ids: set[str] = set()
        self.wanted: list[tuple[str, str]] = []
        self.levels: list[int] = []
        self.count: dict[str, int] = {}
        self.open: list[tuple[str, dict[str, str]]] = []
        self.heard: list[list[str]] = []
        self.focusable: list[tuple[str, dict[str, str]]] = []
        self.captions: list[bool] = []
        self.feed(text)
        self.close()
        self._whole()

    def handle_starttag(self, tag, attrs):
        values = {name: value or "" for name, value in attrs}
        self.count[tag] = self.count.get(tag, 0) + 1
        if (name := values.get("id")) is not None:
            if name in self.ids:
                self.faults.append(f"id {name} twice")
            self.ids.add(name)
        for attribute in ("aria-labelledby", "aria-describedby"):
            self.wanted += [(attribute, name) for name in values.get(attribute, "").split()]
        if tag == "a" and values.get("href", "").startswith("#"):
            self.wanted.append(("href", values["href"][1:]))
        named = values.get("aria-label", "").strip() or values.get("aria-labelledby", "").strip()
        if tag == "img" and not values.get("alt", "").strip():
            self.faults.append("img without alt")
        if tag == "svg" and not (values.get("role") == "img" and values.get("aria-label", "").strip()):
            self.faults.append("svg without a name")
        if (tag == "nav" or values.get("role") == "region") and not named:
            self.faults.append(f"{tag} without a name")
        classes = values.get("class", "").split()
        if "scroll" in classes and (values.get("tabindex"), values.get("role")) != ("0", "region"):
            self.faults.append("what scrolls is not reached by the keyboard")
        if int(values.get("tabindex", "0") or 0) > 0 or "autofocus" in values or "accesskey" in values:
            self.faults.append("focus is led astray")
        if values.get("tabindex") == "0" or (tag == "a" and "href" in values) or tag == "summary":
            self.focusable.append((tag, values))
        if tag in HEADINGS:
            self.levels.append(HEADINGS[tag])
        if tag == "th" and values.get("scope") not in ("col", "row", "colgroup", "rowgroup"):
            self.faults.append("th without scope")
        if tag == "table":
            self.captions.append(False)
        if tag == "caption":
            self.captions[-1] = True
        if tag == "html" and not re.fullmatch(r"[a-z]{2,3}(-\w+)*", values.get("lang", "")):
            self.faults.append("no language")
        if tag == "meta" and "user-scalable=no" in values.get("content", ""):
            self.faults.append("no zoom")
        parent = self.open[-1][0] if self.open else ""
        if (parent in ("ul", "ol")) != (tag == "li") and (parent in ("ul", "ol") or tag == "li"):
            self.faults.append(f"{tag} in {parent}")
        if tag == "summary" and parent != "details":
            self.faults.append("summary outside of details")
        if tag not in VOID:
            self.open.append((tag, values))
            self.heard.append([])

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()
            self.heard.pop()

    def handle_endtag(self, tag):
        _, values = self.open.pop()
        heard = "".join(self.heard.pop())
        said = heard.strip() or values.get("aria-label", "").strip()
        if tag in ("a", "summary", "title", "th", "caption", "button", *HEADINGS) and not said:
            self.faults.append(f"{tag} says nothing")
        if tag == "table" and not self.captions.pop():
            self.faults.append("table without caption")
        if self.heard:
            self.heard[-1].append(heard)

    def handle_data(self, data):
        if self.heard:
            self.heard[-1].append(data)

    def _whole(self):
        for tag, times in (("h1", 1), ("main", 1), ("title", 1), ("header", 1), ("html", 1)):
            if self.count.get(tag, 0) != times:
                self.faults.append(f"{self.count.get(tag, 0)} of {tag}")
        if self.levels[:1] != [1]:
            self.faults.append("the first heading is not of level 1")
        for above, below in zip(self.levels, self.levels[1:], strict=False):
            if below > above + 1:
                self.faults.append(f"level {above} is followed by {below}")
        self.faults += [
            f"{what} of {name!r}, which is nowhere" for what, name in self.wanted if name not in self.ids
        ]
        first = self.focusable[0][1] if self.focusable else {}
        if not first.get("href", "").startswith("#"):
            self.faults.append("nothing to skip with")


def variables(css: str) -> dict[str, dict[str, str]]:
    """Colour variables of a style sheet, ``light`` and ``dark``."""
    found = {"light": {}, "dark": {}}
    # Blocks of a dark scheme hold one rule each; what is left is light.
    dark = re.compile(r"@media screen and \(prefers-color-scheme: dark\)\s*\{(.*?\})\s*\}", re.DOTALL)
    for scheme, text in (("dark", " ".join(dark.findall(css))), ("light", dark.sub("", css))):
        for rule in re.findall(
            r":root[^{]*\{([^}]*)\}", re.sub(r"@media[^{]*\{[^{}]*\{[^}]*\}\s*\}", "", text)
        ):
            found[scheme] |= dict(re.findall(r"--([\w-]+):\s*(#[0-9a-fA-F]{3,6})\b", rule))
    return {"light": found["light"], "dark": found["light"] | found["dark"]}


def contrast(one: str, other: str) -> float:
    """Ratio of two colours as WCAG 2 counts it.

    >>> round(contrast("#000", "#ffffff"), 1)
    21.0
    """
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    digits = colour.lstrip("#")
    digits = "".join(2 * d for d in digits) if len(digits) == 3 else digits
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
