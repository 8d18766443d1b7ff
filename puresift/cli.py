"""The command: `puresift replay LOG --rules ...`, `puresift report RUN...` and `puresift check MODULE:FACTORY`."""

from __future__ import annotations

import argparse
import inspect
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, NoReturn, get_args, get_type_hints

from torch import Tensor

from puresift.errors import SiftError
from puresift.records.audit import read_log
from puresift.report import write
from puresift.trials.contracts import check
from puresift.trials.replays import compare, overlap
from puresift.trials.tables import LABELS, class_mix, labels_of, plot
from puresift.types import Rule

_CODES = "exit codes: 0 done; 1 a check found the score at fault; 2 the command or its input cannot be used"


class Finding(Exception):
    """A contract that a score breaks: exit code 1, not 2."""


class Parser(argparse.ArgumentParser):
    """Usage errors on one line, like all other errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {' '.join(message.split())}; {self.prog} --help says more\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; an error is one line on stderr.

    Args:
        arguments: by default `sys.argv[1:]`.

    Returns:
        0 when done, 1 when a check found the score at fault, 2 when the command or its input cannot be used.
    """
    chosen = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.showwarning = lambda message, *rest: print(f"puresift: {message}", file=sys.stderr)
            print("\n".join(chosen.run(chosen)))
    except (Finding, ValueError, OSError) as error:
        print("puresift: " + " ".join(str(error).split()), file=sys.stderr)
        return 1 if isinstance(error, Finding) else 2
    return 0


def parse_rule(text: str) -> Rule:
    """A rule from its factory's name and number arguments, such as "relative:keep=0.5,history=1000".

    Raises:
        SiftError: naming the valid choices.
    """
    name, _, rest = text.partition(":")
    factories = _factories()
    if name not in factories:
        raise SiftError(f"there is no rule {name!r}; there are {', '.join(sorted(factories))}")
    known = inspect.signature(factories[name]).parameters
    given: dict[str, float] = {}
    for part in filter(None, rest.split(",")):
        setting, equals, value = part.partition("=")
        if not equals or setting not in known:
            raise SiftError(f"{name} has no setting {setting!r}; it has {', '.join(known)}, each as NAME=NUMBER")
        given[setting] = _number(f"{name}:{setting}", value)
    if missing := [n for n, p in known.items() if p.default is p.empty and p.kind != p.VAR_KEYWORD and n not in given]:
        raise SiftError(f"{name} needs {', '.join(missing)}, such as {name}:{missing[0]}=0.5")
    return factories[name](**given)


def _factories() -> dict[str, Callable[..., Rule]]:
    """The public factories that make a rule from numbers alone."""
    package = import_module("puresift")
    public = {name: getattr(package, name) for name in package.__all__}
    return {name: thing for name, thing in public.items() if inspect.isfunction(thing) and _makes_a_rule(thing)}


def _makes_a_rule(factory: Callable[..., Any]) -> bool:
    hints = get_type_hints(factory)
    return hints.pop("return", None) is Rule and not any(_mentions(hint, Rule) for hint in hints.values())


def _mentions(hint: Any, kind: type) -> bool:
    """Whether a type hint has `kind` in it, at any depth."""
    parts = hint if isinstance(hint, list) else get_args(hint)
    return hint is kind or any(_mentions(part, kind) for part in parts)


def _number(name: str, text: str) -> float:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    raise SiftError(f"{name} must be a number, got {text!r}")


def _replay(chosen: argparse.Namespace) -> list[str]:
    rules = {text: parse_rule(text) for text in dict.fromkeys(chosen.rules)}
    columns, _ = read_log(chosen.log)
    scored = columns["loss"].isfinite()
    losses = columns["loss"][scored]
    if not len(losses):
        raise SiftError(f"none of the {len(scored)} rows of {chosen.log} has a finite loss, so nothing can be replayed")
    usable = {name: column[scored] for name, column in columns.items() if isinstance(column, Tensor)}
    del usable["loss"]
    answer = compare(rules, losses, pool=chosen.pool, columns=usable)
    width = max(len("rule"), *map(len, rules))
    left = len(scored) - len(losses)
    lines = [
        f"{len(losses)} losses in pools of {chosen.pool}"
        + (f"; {left} rows without a finite loss left out" * bool(left)),
        "",
        f"{'rule':<{width}}  {'keep':>6}  {'planned':>7}  {'ESS':>6}  {f'cost at phi {chosen.phi:g}':>16}",
    ]
    for row, name in enumerate(rules):
        keep, planned, ess = float(answer.keep[row]), float(answer.planned[row]), float(answer.ess[row])
        cost = chosen.phi + keep
        verdict = "" if cost < 1 else "  (no less than training on everything)"
        lines.append(f"{name:<{width}}  {keep:>6.3f}  {planned:>7.3f}  {ess:>6.3f}  {cost:>16.3f}{verdict}")
    lines += ["", "cost: time per row seen, in rows trained on. ESS: of the kept weights, as a share of all rows."]
    lines += class_mix(answer, list(rules), width, labels_of(columns, scored, chosen.label))
    if len(rules) > 1:
        shared = overlap(answer.mask)
        lines += ["", "overlap of what is kept (Jaccard)"]
        lines += [
            f"{name:<{width}}  " + "  ".join(f"{value:.2f}" for value in shared[row].tolist())
            for row, name in enumerate(rules)
        ]
    if chosen.plot:
        plot(answer, list(rules), losses, chosen.phi, chosen.plot)
        lines += ["", f"plotted to {chosen.plot}"]
    return lines


def _check(chosen: argparse.Namespace) -> list[str]:
    place, _, name = chosen.target.partition(":")
    if not name:
        raise SiftError(f"write MODULE:FACTORY, such as train:scoring, got {chosen.target!r}")
    sys.path.insert(0, os.getcwd())  # as `python -m` does
    try:
        factory = getattr(import_module(place), name)
    except (ImportError, AttributeError) as error:
        raise SiftError(f"{chosen.target} cannot be imported: {error}") from error
    finally:
        sys.path.remove(os.getcwd())
    try:
        made = factory()
    except Exception as error:  # user code may raise anything
        raise SiftError(f"{chosen.target}() raised {type(error).__name__}: {error}") from error
    if not isinstance(made, tuple) or len(made) != 3:
        raise SiftError(f"{chosen.target}() must return (score, params, batch), got {type(made).__name__}")
    try:
        report = check(*made)
    except ValueError as error:
        raise Finding(str(error)) from error
    except Exception as error:
        raise Finding(f"the score raised {type(error).__name__}: {error}") from error
    return [
        f"{len(report.losses)} rows checked: one finite loss a row, mean {float(report.losses.mean()):.4g}; nothing "
        "was changed",
        f"the losses move by {report.repeated:.1e} when repeated, {report.permuted:.1e} when the rows are reversed, "
        f"{report.dropped:.1e} when half are dropped (of their mean)",
    ]


def _report(chosen: argparse.Namespace) -> list[str]:
    page, *pictures = write(chosen.runs, chosen.out)
    kept = f"; figures: {', '.join(picture.name for picture in pictures)}" if pictures else ""
    return [f"{page} ({page.stat().st_size / 1024:,.0f} kB, stands alone{kept})"]


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="puresift", description="Online data sifting for PyTorch.", epilog=_CODES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    replay = commands.add_parser(
        "replay",
        help="what rules would have kept of a recorded log",
        description='Read a log of losses (ps.AuditLog, or JSONL objects with a "loss") and say what each rule would '
        "have kept of it: the fraction, the effective sample size, the class mix, the overlap and the predicted cost.",
        epilog="example: puresift replay log.jsonl --rules relative:keep=0.5 top:keep=0.25 --phi 0.12 --plot rules.png",
    )
    replay.add_argument("log", metavar="LOG", help="a .jsonl or .parquet file")
    replay.add_argument(
        "--rules", nargs="+", required=True, metavar="RULE", help="NAME:SETTING=NUMBER,... with a name from puresift"
    )
    replay.add_argument(
        "--phi",
        type=float,
        default=0.12,
        help="time to score a row over time to train on one (default .12, measured for bfloat16 scoring; a forward in "
        "training precision is 1/3)",
    )
    replay.add_argument("--pool", type=int, default=64, help="rows in a pool (default 64)")
    replay.add_argument("--label", help=f"the column of classes (default the first of {', '.join(LABELS)})")
    replay.add_argument("--plot", metavar="OUT.png", help="also plot; needs matplotlib")
    replay.set_defaults(run=_replay)
    report = commands.add_parser(
        "report",
        help="one page and its figures out of run folders",
        description="Read run folders (ps.Recorder or models.train writes them; a folder of run folders counts as all "
        "of them) and write report.html, which stands alone, and the figures as PNG files: accuracy against "
        "wall-clock, kept fraction and phi, losses seen and kept, class mix, governor, most and least kept samples; "
        "several runs side by side. Needs matplotlib.",
        epilog="example: puresift report runs/plain runs/sifted --out report",
    )
    report.add_argument("runs", nargs="+", metavar="RUN", help="a run folder")
    report.add_argument("--out", default="report", metavar="FOLDER", help="where to write (default: report)")
    report.set_defaults(run=_report)
    contract = commands.add_parser(
        "check",
        help="check the contract of a score",
        description="Import MODULE, call FACTORY() for (score, params, batch), and check the score on the batch. "
        "Exit code 1 when the score breaks its contract, 2 when it cannot be checked.",
        epilog="example: puresift check train:scoring",
    )
    contract.add_argument("target", metavar="MODULE:FACTORY", help="a function of no arguments, importable from here")
    contract.set_defaults(run=_check)
    return parser


if __name__ == "__main__":
    sys.exit(main())
