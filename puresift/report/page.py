"""Runs and figures to one self-contained HTML page. Every text of a run is escaped here."""

from __future__ import annotations

import base64
from html import escape

from puresift.report import figures
from puresift.report.drawing import Figure
from puresift.report.looks import CSS
from puresift.report.numbers import numbers, result, sentence, shown
from puresift.report.reading import Line, Run

Drawn = dict[str, list[Figure | None]]  # by section; one entry per run, or one for all runs
_LONGEST = 400  # letters of a sample

_UNKNOWN = ' class="unknown"'  # not shown where there is little room

_WHY = {
    "losses": "where nothing was scored",
    "threshold": "where nothing was scored",
    "classes": 'where the sifter declared no column "label"',
}
_SHARED = {  # figures of all runs together, and what to say where there is none
    "evaluations": "accuracy over time; no run recorded an evaluation",
    "kept": "kept fraction and phi; no run recorded pools that it sifted",
    "governor": "decisions of the governor; no run had one",
}
_ALONE = {"losses": "losses", "threshold": "what it takes to be kept", "classes": "class mix"}
_WORDS = {
    "kept": "Seen and chosen to train on; in per cent of the samples seen.",
    "phi": "Time to score a sample over time to train on one.",
    "cost": "The time a sample seen costs, in samples trained on: as the loop has measured it, else phi times the "
    "share scored, plus the share kept. Sifting saves time while this is below 1; the run to beat is plain training "
    "with its schedule shortened to the same cost.",
}


def page(runs: list[Run], drawn: Drawn) -> str:
    """The whole page."""
    names = ", ".join(f"<bdi>{text(run.name)}</bdi>" for run in runs)
    summary = "".join(
        f"<strong><bdi>{text(piece)}</bdi></strong>" if name else text(piece) for piece, name in sentence(runs)
    )
    body = [
        "<h1>What sifting did</h1>",
        f'<p class="soft">{"Run" if len(runs) == 1 else f"{len(runs)} runs"}: {names}</p>',
        f'<p class="summary">{summary.strip()}</p>',
        _section("Runs", _table(runs) + _facts(runs)),
        _section("Over time", _grid(_known(drawn, tuple(_SHARED)))),
        _section("Losses", _grid(_known(drawn, ("losses", "threshold")))),
        _section("Class mix", _grid(_known(drawn, ("classes",)))),
        _section("Most and least kept samples", "".join(_samples(run) for run in runs)),
        _section("Words", "<dl>" + "".join(f"<dt>{a}</dt><dd>{b}</dd>" for a, b in _WORDS.items()) + "</dl>"),
        _left_out(runs, drawn),
    ]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>What sifting did: {text(', '.join(run.name for run in runs))}</title>\n<style>{CSS}</style>\n"
        "</head>\n<body>\n<main>\n" + "\n".join(body) + "\n</main>\n</body>\n</html>\n"
    )


def text(value: object, longest: int = _LONGEST) -> str:
    """Escaped text, cut to a length, without control characters."""
    letters = str(value)
    letters = letters if len(letters) <= longest else letters[: longest - 1] + "…"
    return escape("".join(c if c in "\n\t" or (ord(c) >= 32 and not 127 <= ord(c) < 160) else "�" for c in letters))


def _section(title: str, content: str) -> str:
    """A part of the page, if there is anything in it."""
    return content and f"<section>\n<h2>{title}</h2>\n{content}\n</section>"


def _table(runs: list[Run]) -> str:
    metric = figures.metric(runs)
    heads = ["run", metric or "accuracy", "training time", "pools", "seen", "kept", "kept share", "phi", "cost"]
    rows = "".join(
        "<tr>"
        + "".join(
            f'<td{_UNKNOWN * (cell == "-")} data-name="{text(head)}"><span><bdi>{text(cell)}</bdi></span></td>'
            for head, cell in zip(heads, _row(run, metric), strict=True)
        )
        + "</tr>\n"
        for run in runs
    )
    head = "".join(f'<th scope="col">{text(head)}</th>' for head in heads)
    return f'<table class="runs">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n'


def _row(run: Run, metric: str | None) -> list[str]:
    found = numbers(run, metric)
    seconds, share = found.seconds, found.share
    return [
        run.name,
        result(found.value, metric),
        shown(seconds, 1 if seconds is not None and seconds < 1000 else 0, " s"),
        shown(found.pools),
        shown(found.seen or None),
        shown(found.kept if found.seen else None),
        shown(None if share is None else 100 * share, 1, " %"),
        shown(found.phi, 3),
        shown(found.cost, 2),
    ]


def _facts(runs: list[Run]) -> str:
    """Facts that all runs share, once; the others for each run."""
    shared = {k: v for k, v in runs[0].facts.items() if all(run.facts.get(k, ...) == v for run in runs)}
    lines = [("All runs" if len(runs) > 1 else "Settings", shared)]
    lines += [(run.name, {k: v for k, v in run.facts.items() if k not in shared}) for run in runs]
    return "".join(
        f'<p class="facts"><bdi>{text(name)}</bdi>: '
        + ", ".join(f"{text(key)} <bdi>{text(value, 80)}</bdi>" for key, value in facts.items())
        + "</p>\n"
        for name, facts in lines
        if facts
    )


def _known(drawn: Drawn, names: tuple[str, ...]) -> list[tuple[Figure, str]]:
    """The figures there are, run after run."""
    made = zip(*(drawn[name] for name in names), strict=True)
    return [(figure, figure.title) for row in made for figure in row if figure is not None]


def _left_out(runs: list[Run], drawn: Drawn) -> str:
    """One line that opens: what the page has not, and why."""
    notes = [f"Left out: {words}." for name, words in _SHARED.items() if drawn[name] == [None]]
    for name, words in _ALONE.items():
        lacking = ", ".join(run.name for run, figure in zip(runs, drawn[name], strict=True) if figure is None)
        notes += [f"Left out: {words} of {lacking}, {_WHY[name]}."] if lacking else []
    lines = [f'<p class="none">{text(note, 2000)}</p>' for note in notes]
    for run in runs:
        if why := _unshown(run):
            lines.append(f'<div class="lack"><bdi>{text(run.name)}</bdi> <p class="none">{why}</p></div>')
    if not lines:
        return ""
    count = "1 note" if len(lines) == 1 else f"{len(lines)} notes"
    return f"<details>\n<summary>{count} on what is left out, and why</summary>\n" + "\n".join(lines) + "\n</details>"


def _unshown(run: Run) -> str:
    if not run.samples:
        return "Left out: samples, for which the sifter has to declare a column &quot;id&quot;."
    bare = not any(sample.get("text") or sample.get("image") for sample in run.samples)
    return "Text and images left out: the recorder was given no sample=." if bare else ""


def _grid(known: list[tuple[Figure, str]]) -> str:
    parts = "".join(
        f'<figure class="figure"><figcaption><bdi>{text(title)}</bdi></figcaption>{_image(figure)}</figure>\n'
        for figure, title in known
    )
    return f'<div class="grid">\n{parts}</div>\n' if known else ""


def _image(figure: Figure) -> str:
    data = base64.b64encode(figure.svg()).decode()
    return f'<img alt="{text(figure.alt, 2000)}" src="data:image/svg+xml;base64,{data}">'


def _samples(run: Run) -> str:
    if not run.samples:
        return ""
    title = f"<h3><bdi>{text(run.name)}</bdi></h3>\n"
    lists, order = "", {"most": ", hardest first", "least": ", easiest first"}
    scored = any(sample.get("loss") is not None for sample in run.samples)
    for rank, words in (("most", "Most kept"), ("least", "Least kept")):
        items = "".join(_sample(sample, run) for sample in run.samples if sample["rank"] == rank)
        if items:
            lists += f'<div><h4>{words}{order[rank] * scored}</h4>\n<ol class="samples">\n{items}</ol></div>\n'
    return f'{title}<div class="grid">\n{lists}</div>\n'


def _sample(sample: Line, run: Run) -> str:
    label = f", label <bdi>{text(sample['label'], 60)}</bdi>" if sample.get("label") else ""
    loss = f", mean loss {sample['loss']:.3g} {text(run.unit, 30)}".rstrip() if sample.get("loss") is not None else ""
    image = ""
    if sample.get("image"):  # read as a data URI of a PNG or JPEG, else left out
        image = f'<img alt="sample {text(sample["id"], 60)}" src="{text(sample["image"], 10**9)}">'
    words = f'<p class="text" dir="auto">{text(sample["text"])}</p>' if sample.get("text") else ""
    return (
        f'<li>{image}<div>{words}<p class="numbers">id <bdi>{text(sample["id"], 60)}</bdi>{label}, kept '
        f"{shown(sample['kept'])} of {shown(sample['seen'])} times{loss}</p></div></li>\n"
    )
