"""The command: `puresift replay LOG --rules ...`, `puresift report RUN...` and `puresift check MODULE:FACTORY`."""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TextIO

from torch import Tensor

from puresift.errors import SiftError
from puresift.records.logs import read_log
from puresift.report import write
from puresift.trials.advising import advise
from puresift.trials.contracts import check
from puresift.trials.named import parse_rule
from puresift.trials.replays import Replayed, compare
from puresift.trials.scripts import called, imported, job
from puresift.trials.tables import LABELS, class_mix, costs, labels_of, overlaps, plot
from puresift.types import Rule

__all__ = ["Finding", "Parser", "main", "parse_rule"]

_JOB = """\
example: puresift advise train.py:job --passes 20

where train.py makes the run as it begins, such as

  import torch
  def job():
      model, rows = torch.nn.Linear(4, 3), [(torch.randn(4), row % 3) for row in range(640)]
      loss = lambda model, batch: torch.nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
      loader = torch.utils.data.DataLoader(rows, batch_size=32, shuffle=True)
      return model, loss, loader, torch.optim.AdamW(model.parameters(), 1e-3)"""
_CODES = "exit codes: 0 done; 1 a check found the score at fault; 2 the command or its input cannot be used"


class Finding(Exception):
    """A contract that a score breaks: exit code 1, not 2."""


class Parser(argparse.ArgumentParser):
    """Usage errors on one line, like all other errors."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, _line(f"{self.prog}: {message}; {self.prog} --help says more", sys.stderr) + "\n")


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
            warnings.showwarning = lambda message, *rest: _say([f"puresift: {message}"], sys.stderr)
            _say(chosen.run(chosen), sys.stdout)
    except (Finding, ValueError, OSError) as error:
        _say([_line(f"puresift: {error}", sys.stderr)], sys.stderr)
        return 1 if isinstance(error, Finding) else 2
    except (MemoryError, RecursionError) as error:
        _say([f"puresift: the input is too large or too deep ({type(error).__name__}); give less of it"], sys.stderr)
        return 2
    return 0


def _say(lines: Iterable[str], file: TextIO) -> None:
    """Print lines, whatever texts of a log are in them."""
    for line in lines:
        print(_printable(line, file), file=file)


def _line(message: str, file: TextIO) -> str:
    """A message on one line, without the middle of what is endless."""
    line = _printable(" ".join(message.split()), file)
    return line if len(line) <= 1200 else f"{line[:600]} ... {line[-600:]}"


def _printable(line: str, file: TextIO) -> str:
    """Without control characters, and what the file's encoding cannot say."""
    encoding = getattr(file, "encoding", None) or "utf-8"
    text = "".join(letter if letter.isprintable() else "?" for letter in line)
    return text.encode(encoding, "replace").decode(encoding)


def _replay(chosen: argparse.Namespace) -> list[str]:
    rules = {text: parse_rule(text) for text in dict.fromkeys(chosen.rules)}
    columns, _ = read_log(chosen.log)
    scored = columns["loss"].isfinite()
    losses = columns["loss"][scored]
    if not len(losses):
        raise SiftError(f"none of the {len(scored)} rows of {chosen.log} has a finite loss, so nothing can be replayed")
    answer = _compared(rules, columns, scored, chosen.pool)
    width = max(len("rule"), *map(len, rules))
    left = len(scored) - len(losses)
    lines = [
        f"{len(losses)} losses in pools of {chosen.pool}"
        + (f"; {left} rows without a finite loss left out" * bool(left)),
        "",
    ]
    lines += costs(answer, list(rules), width, chosen.phi)
    lines += class_mix(answer, list(rules), width, labels_of(columns, scored, chosen.label))
    if len(rules) > 1:
        lines += overlaps(answer, list(rules), width)
    if chosen.plot:
        plot(answer, list(rules), losses, chosen.phi, chosen.plot)
        lines += ["", f"plotted to {chosen.plot}"]
    return lines


def _compared(rules: dict[str, Rule], columns: dict[str, Any], scored: Tensor, pool: int) -> Replayed:
    # A rule's own arguments cannot be given twice.
    taken = ("loss", "losses", "state")
    usable = {n: column[scored] for n, column in columns.items() if isinstance(column, Tensor) and n not in taken}
    try:
        return compare(rules, columns["loss"][scored], pool=pool, columns=usable)
    except (RuntimeError, MemoryError, TypeError, IndexError, OverflowError) as error:
        if isinstance(error, SiftError):
            raise
        raise SiftError(f"the rules cannot be replayed on this log ({error}); lower their settings") from error


def _check(chosen: argparse.Namespace) -> list[str]:
    made = called(imported(chosen.target, "MODULE:FACTORY, such as train:scoring"), chosen.target)
    if not isinstance(made, tuple) or len(made) != 3:
        raise SiftError(f"{chosen.target}() must return (score, params, batch), got {type(made).__name__}")
    try:
        report = check(*made)
    except ValueError as error:
        raise Finding(str(error)) from error
    except (Exception, SystemExit) as error:
        raise Finding(f"the score raised {type(error).__name__}: {error}") from error
    return [
        f"{len(report.losses)} rows checked: one finite loss a row, mean {float(report.losses.mean()):.4g}; nothing "
        "was changed",
        f"the losses move by {report.repeated:.1e} when repeated, {report.permuted:.1e} when the rows are reversed, "
        f"{report.dropped:.1e} when half are dropped (of their mean)",
    ]


def _advise(chosen: argparse.Namespace) -> list[str]:
    settings = {"seconds": chosen.seconds, "passes": chosen.passes, "steps": chosen.steps}
    told = {name: value for name, value in settings.items() if value is not None}
    return str(advise(**job(chosen.target) | told)).splitlines()


def _report(chosen: argparse.Namespace) -> list[str]:
    page, *pictures = write(chosen.runs, chosen.out)
    kept = f"; figures: {', '.join(picture.name for picture in pictures)}" if pictures else ""
    return [f"{page} ({page.stat().st_size / 1024:,.0f} kB, stands alone{kept})"]


def _phi(text: str) -> float:
    with suppress(ValueError):
        if 0 <= (value := float(text)) < math.inf:
            return value
    raise argparse.ArgumentTypeError(f"must be a number >= 0, got {text:.40}")


def _parser() -> argparse.ArgumentParser:
    about = (
        "Choose, while a PyTorch model trains, what it trains on. Begin with advise: does that pay on your job? Then "
        "report shows what a run did; check and replay are for losses and rules of your own."
    )
    parser = Parser(prog="puresift", description=about, epilog=_CODES)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    replay = commands.add_parser(
        "replay",
        help="what each rule would have kept, out of a log of losses",
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
        type=_phi,
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
        help="what sifting did in a run, or in several: a page and its figures",
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
        help="whether your loss function gives what sifting needs",
        description="Import MODULE, call FACTORY() for (score, params, batch), and check the score on the batch. "
        "Exit code 1 when the score breaks its contract, 2 when it cannot be checked.",
        epilog="example: puresift check train:scoring",
    )
    contract.add_argument("target", metavar="MODULE:FACTORY", help="a function of no arguments, importable from here")
    contract.set_defaults(run=_check)
    pilot = commands.add_parser(
        "advise",
        help="a pilot of a minute: does it pay to sift this job",
        description=textwrap.fill(
            "Run SCRIPT (a file, or a module that can be imported from here), take NAME from it, and run ps.advise on "
            "what it gives: a tuple (model, loss, loader) or (model, loss, loader, optimizer), a dict of arguments of "
            "ps.advise by name, or a function of no arguments that returns one of them. A script whose last lines "
            'train should keep them under `if __name__ == "__main__":`. Nothing of the job is changed.'
        ),
        epilog=_JOB,
        formatter_class=argparse.RawDescriptionHelpFormatter,  # the example keeps its lines
    )
    pilot.add_argument("target", metavar="SCRIPT:NAME", help="such as train.py:job or package.train:job")
    pilot.add_argument("--passes", type=float, help="over the loader in the full run (default 1): decides most")
    pilot.add_argument("--steps", type=int, help="of the full run, where the loader has no length")
    pilot.add_argument("--seconds", type=float, help="that the pilot may take (default 60)")
    pilot.set_defaults(run=_advise)
    return parser


if __name__ == "__main__":
    sys.exit(main())
