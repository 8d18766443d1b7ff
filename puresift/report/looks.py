"""How the page looks."""

CSS = """
:root { color-scheme: light dark; --ink: #1d1f21; --soft: #5c6166; --line: #d9dcdf; --paper: #fdfdfc; --wash: #f3f4f3 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e6e8; --soft: #a2a8ae; --line: #3a3f44; --paper: #16181a; --wash: #202326 }
  .figure img { filter: invert(1) hue-rotate(180deg) }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, sans-serif }
main { max-width: 72rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem }
h1, h2, h3, h4 { line-height: 1.25; font-weight: 600; overflow-wrap: anywhere }
h1 { font-size: 1.75rem; margin: 0 0 .25rem }
h2 { font-size: 1.2rem; margin: 3rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem }
h4 { font-size: .9rem; margin: .5rem 0 0; color: var(--soft) }
p { margin: .5rem 0; max-width: 44rem }
.soft, .none, th, .facts { color: var(--soft) }
figcaption { font-weight: 500; margin-bottom: .35rem; overflow-wrap: anywhere }
.none { font-style: italic }
.summary { font-size: 1.1rem; overflow-wrap: anywhere }
details { margin-top: 3rem; padding-top: .75rem; border-top: 1px solid var(--line); color: var(--soft) }
summary { cursor: pointer }
.lack { display: flex; flex-wrap: wrap; gap: 0 .6rem; align-items: baseline }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1.5rem 2rem }
.figure { margin: 0; max-width: 31rem; min-width: 0 }
.figure img { display: block; width: 100%; height: auto }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .4rem .6rem; border-bottom: 1px solid var(--line); overflow-wrap: anywhere }
th { font-weight: 500; font-size: .875rem; vertical-align: bottom }
th:first-child, td:first-child { text-align: left; padding-left: 0 }
.facts { font-size: .875rem; overflow-wrap: anywhere }
ol.samples { list-style: none; margin: 0; padding: 0 }
.samples li { display: flex; gap: 1rem; padding: .6rem 0; border-bottom: 1px solid var(--line) }
.samples li > div { flex: 1; min-width: 0 }
.samples img { flex: none; align-self: start; max-width: 45%; min-width: 4rem; height: auto }
.samples img { image-rendering: pixelated }
.samples .text { margin: 0 0 .15rem; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: plaintext }
.samples .numbers { margin: .15rem 0 0; color: var(--soft); font-size: .85rem; font-variant-numeric: tabular-nums }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.25rem; margin: .5rem 0; max-width: 44rem }
dt { color: var(--soft) } dd { margin: 0 }
@media (max-width: 44rem) {
  main { padding: 1.5rem 1rem 3rem }
  table.runs, .runs tbody, .runs tr, .runs td { display: block }
  .runs thead { display: none }
  .runs tr { padding: .6rem 0; border-bottom: 1px solid var(--line) }
  .runs td { display: flex; justify-content: space-between; gap: 1rem; border: 0; padding: .1rem 0 }
  .runs td::before { content: attr(data-name); color: var(--soft) }
  .runs td.unknown { display: none }
  .runs td:first-child { font-weight: 600 } .runs td:first-child::before { content: none }
}
@media print { h2 { break-after: avoid } .figure, .samples li { break-inside: avoid } }
"""
