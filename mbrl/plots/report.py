"""One HTML page with everything in it: no server, no network, no further files."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mbrl.plots.style import figure_to_data_uri
from mbrl.runs.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Text:
    """Paragraphs, separated by empty lines; ``heading`` starts a new part of the page."""

    text: str
    heading: str = ""


@dataclass(frozen=True)
class Table:
    """A table of texts: a header and rows of as many cells."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    heading: str = ""


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure, or the path of a PNG file; the caption says in words what there is to see."""

    figure: "Figure | str | Path"
    caption: str = ""
    heading: str = ""


@dataclass(frozen=True)
class Video:
    """An mp4 file, played in a loop."""

    path: str | Path
    caption: str = ""
    heading: str = ""


Section = Text | Table | Picture | Video


def html_report(path: str | Path, title: str, sections: Sequence[Section]) -> Path:
    """Write a page that holds its pictures and videos itself and reads well on desktop and phone, in light and dark.

    Args:
        path: the file, by convention ``report.html``.
        title: heading of the page.
        sections: what is on it, from top to bottom.

    Returns:
        The path.

    Raises:
        TypeError: a section is something else.
        ValueError: a row of a table has another length than its header.
        FileNotFoundError: there is no such picture or video.
    """
    body = "\n".join(_heading(section) + _content(section) for section in sections)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    page = PAGE.format(title=html.escape(title), style=STYLE_SHEET, body=body)
    replace_file(path, lambda partial: partial.write_text(page, encoding="utf-8"))
    return path


def _heading(section: Section) -> str:
    heading = getattr(section, "heading", "")
    return f"<h2>{html.escape(heading)}</h2>\n" if heading else ""


def _content(section: Section) -> str:
    match section:
        case Text():
            paragraphs = (part.strip() for part in section.text.split("\n\n"))
            return "\n".join(f"<p>{html.escape(part)}</p>" for part in paragraphs if part)
        case Table():
            return _figure(_table(section), section.caption)
        case Picture():
            source = f'src="{_picture(section)}" alt="{html.escape(section.caption)}"'
            return _figure(f'<div class="wide"><img {source}></div>', section.caption)
        case Video():
            data = base64.b64encode(Path(section.path).read_bytes()).decode()
            source = f'src="data:video/mp4;base64,{data}" aria-label="{html.escape(section.caption)}"'
            return _figure(f"<video {source} controls autoplay muted loop playsinline></video>", section.caption)
    raise TypeError(f"a section is a Text, Table, Picture or Video, got {type(section).__name__}")


def _picture(section: Picture) -> str:
    if isinstance(section.figure, str | Path):
        return "data:image/png;base64," + base64.b64encode(Path(section.figure).read_bytes()).decode()
    return figure_to_data_uri(section.figure)


def _table(table: Table) -> str:
    for number, row in enumerate(table.rows):
        if len(row) != len(table.header):
            raise ValueError(f"row {number} of the table has {len(row)} cells, the header has {len(table.header)}")
    kinds = [' class="words"' if _is_words(column) else "" for column in zip(*table.rows, strict=True)]
    kinds = kinds or [""] * len(table.header)
    heads = zip(table.header, kinds, strict=True)
    head = "".join(f'<th scope="col"{kind}>{html.escape(cell)}</th>' for cell, kind in heads)
    rows = (
        "".join(f"<td{kind}>{html.escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True))
        for row in table.rows
    )
    body = "\n".join(f"<tr>{row}</tr>" for row in rows)
    return f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>'


def _is_words(column: Sequence[str]) -> bool:
    """Whether cells are read from the left; numbers stand below each other at the right."""
    return any(cell[:1].isalpha() and cell not in ("nan", "inf", "yes", "no", "none") for cell in column)


def _figure(content: str, caption: str) -> str:
    words = f"<figcaption>{html.escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{content}{words}</figure>"


STYLE_SHEET = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5c6370; --paper: #ffffff; --line: #dfe2e6; --band: #f5f6f8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a0a7b4; --paper: #15171a; --line: #33373d; --band: #1e2125; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem 1rem 4rem; color: var(--ink); background: var(--paper);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 1.2rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-top: .8rem; border-top: 1px solid var(--line); }
p { margin: .6rem 0; white-space: pre-line; overflow-wrap: anywhere; }
figure { margin: 1.2rem 0; }
figcaption { color: var(--soft); font-size: .9rem; margin-top: .4rem; }
img, video { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: 6px; }
img { background: #ffffff; padding: 8px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th, td { padding: .35rem .7rem; text-align: right; border-bottom: 1px solid var(--line); }
td { white-space: nowrap; }
th { color: var(--soft); font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child, .words { text-align: left; }
tbody tr:nth-child(even) { background: var(--band); }
@media (max-width: 40rem) { .wide img { max-width: none; width: 40rem; } }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{body}
</body>
</html>
"""
