"""The style sheet of a report's page: one set of colours for light, one for dark."""

from __future__ import annotations

STYLE = """
:root{--paper:#fbfbf9;--card:#fff;--ink:#1d2127;--dim:#5f6875;--rule:#dfe2e6;
--float:#98a2b0;--integer:#2166ac;--good:#1b7f5c;--middling:#b87400;--bad:#c0392b;
--sub:#fdecc8;--ins:#d6e8fb;--del:#fadbd7}
@media (prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1c2026;--ink:#e6e8eb;--dim:#9aa4b1;
--rule:#343a43;--float:#77818f;--integer:#6cabdf;--good:#4fc39a;--middling:#e0a64a;--bad:#ef7a6c;
--sub:#4d3a10;--ins:#163a5c;--del:#57211b}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1080px;margin:0 auto;padding:24px 20px 48px}
h1{font-size:1.7rem;margin:0;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:0 0 10px}
h3{font-size:1rem;margin:18px 0 4px}p{margin:0 0 10px}
header p,footer,.note{color:var(--dim);overflow-wrap:anywhere}
section{background:var(--card);border:1px solid var(--rule);border-radius:10px;
padding:18px 20px;margin:18px 0}
.headline{font-size:1.35rem;font-weight:650}
.good-text{color:var(--good)}.middling-text{color:var(--middling)}.bad-text{color:var(--bad)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:4px 18px;margin:0 0 10px}
dt{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto}.scroll svg{min-width:640px}
svg{display:block;width:100%;height:auto}svg text{fill:var(--dim);font-size:13px}
.grid{stroke:var(--rule)}.path{stroke:var(--float);fill:none}.whisker{stroke:var(--ink);stroke-width:1.5}
rect.float,circle.float{fill:var(--float)}rect.integer{fill:var(--integer)}
circle.good{fill:var(--good)}circle.middling{fill:var(--middling)}circle.bad{fill:var(--bad)}
circle.before{fill:var(--card);stroke:var(--float);stroke-width:1.5}
circle.ring{fill:none;stroke:var(--ink);stroke-width:1.5}
rect.range{fill:var(--rule)}rect.reached{fill:var(--integer)}rect.clipped{fill:var(--bad)}
g:hover>rect,g:hover>circle{opacity:.7}
.key{border-bottom:3px solid}.reached-key{border-color:var(--integer)}
.float-key,.before-key{border-color:var(--float)}
.clipped-key,.bad-key{border-color:var(--bad)}.good-key{border-color:var(--good)}
table{border-collapse:collapse;font-size:.92rem}td,th{padding:3px 10px 3px 0;text-align:right}
td:first-child,th:first-child{text-align:left}
table.words td{text-align:left}table.words th{font-weight:400;color:var(--dim);vertical-align:top}
details{margin:8px 0}summary{cursor:pointer;overflow-wrap:anywhere}
.sub,.ins,.del{padding:0 3px;border-radius:3px}.sub{background:var(--sub)}
.ins{background:var(--ins);text-decoration:underline}.del{background:var(--del);text-decoration:line-through}
.moved{outline:1.5px solid var(--ink);outline-offset:-1px;border-radius:3px;padding:0 3px}
pre{background:var(--paper);border:1px solid var(--rule);border-radius:6px;padding:10px;margin:0 0 10px;
white-space:pre-wrap;overflow-wrap:anywhere;font-size:.85rem}
@media print{section{break-inside:avoid}}
"""
