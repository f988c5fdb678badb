"""HTML galleries of pictures that open without a network."""

import html
import os
from pathlib import Path
from typing import Any, List, Mapping, NamedTuple, Optional, Sequence, Tuple
from urllib.parse import quote

from PIL import Image

from ..files import PathLike, write_text
from .class_colors import LEGEND, LINE_STYLES, class_color


class GalleryItem(NamedTuple):
    """A picture of a gallery: its file, relative to the page or absolute, and a caption."""

    file: str
    caption: str


def write_gallery(
    path: PathLike,
    title: str,
    intro: str,
    items: Sequence[GalleryItem],
    table: Optional[Tuple[Sequence[str], Sequence[Sequence[Any]]]] = None,
    *,
    with_sets: bool = False,
    with_added: bool = False,
    colors: Optional[Mapping[str, Sequence[int]]] = None,
) -> None:
    """Write an HTML page of pictures that needs no network.

    Args:
        path: the page; pictures are referred to by their path from there.
        title: of the page.
        intro: plain text; an empty line starts a new paragraph.
        items: the pictures in order; the files must be there.
        table: column headers, and the cells of each row; floats show one digit after the point.
        with_sets: add the legend of set A and set B.
        with_added: add the legend of classes that were added at test time.
        colors: class name -> (R, G, B); adds a legend of these.

    Raises:
        ValueError: for a picture that is missing or unreadable.
        OSError: when the page cannot be written.
    """
    folder = Path(path).resolve().parent
    figures, aspects = [], [1.0]
    for item in items:
        source = Path(os.path.relpath(folder / item.file, folder)).as_posix()
        width, height = _picture_size(folder / item.file)
        aspects.append(width / height)
        url, caption = quote(os.fsencode(source)), html.escape(item.caption)
        figures.append(
            f'<figure><a href="{url}"><img src="{url}" alt="{caption}" width="{width}" '
            f'height="{height}" loading="lazy"></a><figcaption>{caption}</figcaption></figure>'
        )
    # Rows of panels need the width of the page; single pictures stand several in a row.
    column = min(1400, round(330 * max(aspects)))
    body = [f"<h1>{html.escape(title)}</h1>"]
    body += [f"<p>{html.escape(p)}</p>" for p in intro.split("\n\n") if p.strip()]
    if table:
        body.append(_html_table(*table))
    kinds = (["A", "B"] if with_sets else []) + (["new"] if with_added else [])
    if kinds:
        body.append(_html_legend(kinds))
    if colors:
        body.append(_html_color_legend(colors))
    main = "\n".join(figures) or "<p>There are no pictures.</p>"
    body.append(f'<main style="--column: {column}px">{main}</main>')
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style>"
    )
    page = [f'<!DOCTYPE html><html lang="en"><head>{head}</head><body>', *body, "</body></html>\n"]
    write_text(path, "\n".join(page))


def _picture_size(path: Path) -> Tuple[int, int]:
    try:
        with Image.open(path) as picture:
            return picture.size
    except OSError as e:
        raise ValueError(f"the picture '{path}' of the gallery is missing or unreadable") from e


def _html_table(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    def row(tag: str, cells: Sequence[Any]) -> str:
        texts = [f"{c:.1f}" if isinstance(c, float) else html.escape(str(c)) for c in cells]
        return "<tr>" + "".join(f"<{tag}>{text}</{tag}>" for text in texts) + "</tr>"

    body = "\n".join(row("td", cells) for cells in rows)
    return f"<table>{row('th', headers)}{body}</table>"


def _html_legend(kinds: Sequence[str]) -> str:
    entries: List[Tuple[str, str]] = []
    for kind in kinds:
        shades = sorted(class_color(i, kind) for i in range(4))
        css = [f"rgb({', '.join(str(round(255 * v)) for v in shade)})" for shade in shades]
        line = {"-": "solid", "--": "dashed", ":": "dotted"}[LINE_STYLES[kind]]
        style = f"background: linear-gradient(90deg, {', '.join(css)}); border-style: {line}"
        entries.append((style, LEGEND[kind]))
    return _legend_list(entries)


def _html_color_legend(colors: Mapping[str, Sequence[int]]) -> str:
    return _legend_list(
        [(f"background: rgb({', '.join(map(str, c))})", name) for name, c in colors.items()]
    )


def _legend_list(entries: Sequence[Tuple[str, str]]) -> str:
    """Styles of the swatches, and what they mean."""
    items = [
        f'<li><span class="swatch" style="{style}"></span>{html.escape(text)}</li>'
        for style, text in entries
    ]
    return f'<ul class="legend" aria-label="Legend">{"".join(items)}</ul>'


_STYLE = """
:root { color-scheme: light dark; --line: #8886; }  img { width: 100%; height: auto; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1700px; margin: auto; padding: 1.2rem; }
h1 { font-size: 1.6rem; margin: .5rem 0; } p { max-width: 75ch; overflow-wrap: anywhere; }
table { border-collapse: collapse; display: block; overflow-x: auto; margin: 1rem 0; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid var(--line); text-align: left; }
th + th, td + td { text-align: right; font-variant-numeric: tabular-nums; }
.legend { list-style: none; padding: 0; display: flex; flex-wrap: wrap; gap: .4rem 2rem; }
.legend li { display: flex; align-items: center; gap: .6rem; }
.swatch { width: 3.2rem; height: 1.2rem; flex: none; border: 2px solid CanvasText; }
main { display: grid; gap: 1rem; align-items: start;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, var(--column)), 1fr)); }
figure { margin: 0; border: 1px solid var(--line); border-radius: 6px; overflow: hidden; }
figcaption { padding: .2rem .7rem .4rem; font-size: .9rem; overflow-wrap: anywhere; }
"""
