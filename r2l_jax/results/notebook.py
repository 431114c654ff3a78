"""Results as a notebook shows them: HTML with tables, plots and pictures, and folded notes."""

import base64
import io
from typing import TYPE_CHECKING

import markupsafe

from r2l_jax.errors import spelled

if TYPE_CHECKING:
    from r2l_jax.results.result import Figure, Result, Table

# Longer tables are folded.
_ROWS = 25

_NUMBER = markupsafe.Markup(' style="text-align:right"')


def of_result(result: "Result") -> str:
    """Returns the verdict, the plots, the tables, the pictures and the notes of a result."""
    from r2l_jax.results.result import Figure

    about = result.metadata
    parts = [markupsafe.Markup("<h4>{}</h4>").format(about["title"])] if about.get("title") else []
    parts += [markupsafe.Markup("<p><b>{}</b></p>").format(spelled(sentence)) for sentence in about.get("verdict", ())]
    parts += [of_figure(figure, name) for name, figure in result.figures.items() if isinstance(figure, Figure)]
    for table in result.tables.values():
        shown = markupsafe.Markup(of_table(table))
        parts.append(_folded(f"{table.title} ({len(table.rows)} rows)", shown) if len(table.rows) > _ROWS else shown)
    for name, figure in result.figures.items():
        if not isinstance(figure, Figure):
            stream = io.BytesIO()
            figure.save(stream, "png")
            parts.append(_image("image/png", stream.getvalue(), result.captions.get(name, name.replace("_", " "))))
    if notes := about.get("notes"):
        items = markupsafe.Markup("").join(markupsafe.Markup("<p>{}</p>").format(spelled(note)) for note in notes)
        parts.append(_folded("Notes", items))
    return markupsafe.Markup("\n").join(parts)


def of_table(table: "Table") -> str:
    """Returns a table with its title and its note."""
    headings = markupsafe.Markup("").join(
        markupsafe.Markup("<th>{}</th>").format(column.heading) for column in table.columns
    )
    rows = []
    for row in table.rows:
        cells = [
            markupsafe.Markup("<td{}>{}</td>").format("" if isinstance(cell, str) else _NUMBER, column.text(cell))
            for column, cell in zip(table.columns, row, strict=True)
        ]
        rows.append(markupsafe.Markup("<tr>{}</tr>").format(markupsafe.Markup("").join(cells)))
    return markupsafe.Markup(
        "<table><caption>{}</caption><thead><tr>{}</tr></thead><tbody>{}</tbody></table>{}"
    ).format(
        table.title,
        headings,
        markupsafe.Markup("\n").join(rows),
        markupsafe.Markup("<p><small>{}</small></p>").format(spelled(table.note)) if table.note else "",
    )


def of_figure(figure: "Figure", name: str = "") -> markupsafe.Markup:
    """Returns a plot with its caption."""
    caption = figure.caption or name.replace("_", " ")
    if figure.file is None:
        return _image("image/svg+xml", figure.rendered()[1].encode(), caption)
    # Pictures have no SVG file beside their PNG file.
    plot = figure.file.with_suffix(".svg")
    kind, file = ("svg+xml", plot) if plot.exists() else ("png", figure.file)
    return _image(f"image/{kind}", file.read_bytes(), caption)


def _image(kind: str, content: bytes, caption: str) -> markupsafe.Markup:
    # As an image, SVG runs no script. On a dark page, its text needs a light ground.
    return markupsafe.Markup(
        '<figure style="margin:0"><img style="background:white;max-width:100%" src="data:{};base64,{}" alt="{}">'
        "<figcaption>{}</figcaption></figure>"
    ).format(kind, base64.b64encode(content).decode(), caption, caption)


def _folded(title: str, content: markupsafe.Markup) -> markupsafe.Markup:
    return markupsafe.Markup("<details><summary>{}</summary>{}</details>").format(title, content)
