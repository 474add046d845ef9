"""A self-contained HTML page: the layout and style of all reports. No scripts, no external resources."""

import datetime
import pathlib

from codellama_jax.runtime import filesystem


def html(title: str, body: str, style: str = "", foot: str = "") -> str:
    """The page. `style` is added to the common style; `foot` is the footer."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{_STYLE}{style}</style>
</head>
<body>{body}
<footer class="muted">{foot}</footer>
</body>
</html>
"""


def write(path: pathlib.Path, title: str, body: str, style: str = "") -> pathlib.Path:
    """Writes a page with the time in its footer, atomically: a reader never sees a partial page."""
    page = html(title, body, style, foot=f"written {datetime.datetime.now().isoformat(' ', 'minutes')}")
    filesystem.write_atomically(path, page)
    return path


# The colours of lines follow Okabe and Ito's palette, which colour-blind readers can distinguish.
_STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b1f27; --muted: #667080; --rule: #e5e8ed;
  --c1: #0072b2; --c2: #c98600; --c3: #008f6b; --c4: #d55e00; --c5: #b5579a; --c6: #4aa3d8; }
@media (prefers-color-scheme: dark) { :root { --page: #12151b; --card: #1b1f27; --ink: #e8eaee; --muted: #99a2b1;
  --rule: #2e3541; --c1: #4fa9e2; --c2: #eeb033; --c3: #2fc49c; --c4: #f4813c; --c5: #de8fc4; --c6: #8ccdf4; } }
.c0 { --c: var(--ink); } .c1 { --c: var(--c1); } .c2 { --c: var(--c2); } .c3 { --c: var(--c3); }
.c4 { --c: var(--c4); } .c5 { --c: var(--c5); } .c6 { --c: var(--c6); }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1132px; padding: 24px 16px; background: var(--page); color: var(--ink);
  font: 14px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
h1 { margin: 0 12px 0 0; font-size: 26px; display: inline-block; } h1 small { font-weight: 400; color: var(--muted); }
h2 { margin: 28px 0 12px; font-size: 18px; } p { margin: 6px 0; } a { color: var(--c1); }
.muted, dt { color: var(--muted); } header p, figure p { font-size: 13px; }
.state { padding: 2px 10px; border-radius: 99px; font-size: 12px; white-space: nowrap; color: var(--c4);
  background: color-mix(in srgb, currentColor 13%, transparent); } .state.finished { color: var(--c3); }
.card { margin: 0 0 16px; padding: 14px 16px; background: var(--card); border: 1px solid var(--rule);
  border-radius: 10px; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 16px 0; }
.figures div { padding: 10px 14px; background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
dt { font-size: 12px; } dd { margin: 0; font-size: clamp(13px, 1.6vw, 19px); font-weight: 600; text-wrap: balance; }
.grid, article { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 0 16px; }
.wide { grid-column: 1 / -1; } article { align-items: start; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); }
@media (max-width: 800px) { .grid, article { grid-template-columns: minmax(0, 1fr); } }
.scroll { overflow-x: auto; } svg { display: block; width: 100%; min-width: 420px; } .wide svg { min-width: 760px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 4px 0; padding: 0; list-style: none; font-size: 12px; }
.legend i { display: inline-block; width: 16px; height: 3px; margin-right: 6px; background: var(--c);
  vertical-align: middle; }
.legend i.rings { width: 8px; height: 8px; border-radius: 9px; background: none; border: 2px solid currentColor; }
svg text { font-size: 11px; fill: var(--muted); } svg [text-anchor=start] { fill: var(--ink); font-weight: 600; }
svg path { stroke: var(--rule); } svg .axis, svg .mark { stroke: var(--muted); } svg .mark { stroke-dasharray: 4 3; }
polyline { fill: none; stroke: var(--c); stroke-linejoin: round; stroke-width: 1.8; }
polyline.faint { stroke-width: 1; opacity: .28; }
circle { fill: var(--c); } circle.rings { fill: var(--card); stroke: var(--c); stroke-width: 1.6; }
table { width: 100%; border-collapse: collapse; } td { text-align: right; padding: 4px 0 4px 14px; }
th { font-weight: 400; text-align: left; white-space: nowrap; } td.bars { width: 60%; }
.bars i { display: block; height: 7px; margin: 2px 0; border-radius: 2px; background: var(--c); }
.bars .planned { opacity: .35; }
.cascade { display: flex; flex-wrap: wrap; gap: 0 10px; margin: 16px 0 0; padding: 0; list-style: none; }
.cascade h2 { display: inline-block; margin: 0 10px 0 0; } .break { width: 100%; }
.arrow { align-self: center; font-size: 22px; color: var(--muted); }
.cascade .figures { display: block; margin: 8px 0 0; } .cascade dd { font-size: 13px; }
.cascade .figures div { display: flex; gap: 24px; padding: 0; border: 0; justify-content: space-between; }
pre { margin: 6px 0; padding: 10px 12px; border-radius: 8px; background: var(--page); tab-size: 4;
  font: 12px/1.55 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
pre * { unicode-bidi: isolate; } pre span { color: var(--muted); }
mark, ins { color: inherit; text-decoration: none; border-radius: 3px; }
mark { background: color-mix(in srgb, var(--c2) 30%, transparent); } mark:empty::after { content: "(nothing)"; }
ins { background: color-mix(in srgb, var(--c3) 22%, transparent); }
summary { cursor: pointer; font-weight: 600; } footer { margin-top: 24px; font-size: 12px; }
"""
