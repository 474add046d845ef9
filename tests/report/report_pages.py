"""Reads pages of reports."""

import html.parser
import pathlib

VOID = {"meta", "br", "hr", "link", "img", "input"}


class Page(html.parser.HTMLParser):
    """A parsed page. Parsing fails if tags are not balanced."""

    def __init__(self, path: pathlib.Path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[tuple[str, str]] = []  # (tag, text in it)
        self.feed(self.source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.words.append((self.open[-1] if self.open else "", data))

    def texts(self, *tags: str) -> list[str]:
        return [text for tag, text in self.words if tag in tags or not tags]

    def attributes(self, tag: str, name: str) -> list[str]:
        return [attrs[name] or "" for other, attrs in self.tags if other == tag and name in attrs]
