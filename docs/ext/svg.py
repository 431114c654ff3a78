"""Parts of the pictures that are drawn as SVG: colors for light and dark pages, texts, and the whole document."""

import html

STYLE = """
  svg { font-family: system-ui, sans-serif; --ink: #1b2a3a; --soft: #5b6b7c; --box: #e8eef6; --line: #44617f;
        --back: #c2410c; --paper: #ffffff }
  @media (prefers-color-scheme: dark) {
    svg { --ink: #e6edf3; --soft: #9fb0c0; --box: #1d2b3a; --line: #8fb0d0; --back: #fb923c; --paper: #0d1117 }
  }
  .paper { fill: var(--paper) }
  .box { fill: var(--box); stroke: var(--line); stroke-width: 1 }
  .line { fill: none; stroke: var(--line); stroke-width: 1.4 }
  .small { fill: var(--soft); font-size: 10.5px; text-anchor: middle }
"""

# The filters over the sites of a sensor, and a site without one.
COLORS = {"R": "#d9534f", "G": "#4f9d5d", "B": "#4a78c2", "": "#8a94a0"}


def document(width: float, height: float, title: str, style: str, parts: list[str]) -> str:
    """Returns a whole picture on paper, with its title for screen readers."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" role="img">\n<title>{html.escape(title)}</title>\n<style>{STYLE}{style}</style>\n'
        f'<rect class="paper" width="{width:g}" height="{height:g}"/>\n{body}\n</svg>\n'
    )


def text(kind: str, x: float, y: float, words: str) -> str:
    """Returns a text of a class of the style; nothing for an empty one."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}">{html.escape(words)}</text>' if words else ""
