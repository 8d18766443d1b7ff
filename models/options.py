"""The command line of models.train: its options, and every error in one line, before any training."""

import argparse
import math
import os
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import torch

import puresift as ps
from models import files, ranks
from puresift.distributed import place

RATES = {"small": 5e-4, "minilm": 5e-5}  # from scratch; pretrained weights need less
PRETRAINED_RATE = 3e-5
KEEP = 0.5
TOKENS = {"small": 16}  # that auto scores a sentence by, as in the tables of bench.quality
PRETRAINED_TOKENS = 24
# Options that each rule would silently ignore.
IDLE = {
    "none": ("keep", "beta", "history", "delay", "gate", "score_dtype", "score_tokens"),
    "uniform": ("history", "delay", "gate", "score_dtype", "score_tokens"),
    "top": ("history", "gate"),
    "relative": (),
    "auto": ("delay", "gate"),  # its governor decides when to begin
}


@dataclass(frozen=True)
class Options:
    """All settings of a run, resolved: no None except in `data` and `limit`, no "auto" except in `score_dtype`."""

    data: str | None = None
    model: str = "small"
    sift: str = "auto"
    keep: float = KEEP
    history: int = 1024
    delay: int = 0
    gate: bool = True  # of relative alone
    score_dtype: str = "auto"
    score_tokens: int = 0  # 0: all
    bucket: bool = False
    train_dtype: str = "float32"
    epochs: int = 3
    batch_size: int = 64
    lr: float = RATES["small"]
    max_length: int = 64
    limit: int | None = None
    seed: int = 0
    device: str = "cpu"
    threads: int = 1
    save_every: int = 50
    compare: bool = False

    def rule(self) -> ps.Rule:
        """The rule of the sifted arm, before any delay; auto brings its own."""
        if self.sift == "relative":
            rule = ps.relative(keep=self.keep, history=self.history)
            return ps.gate(rule, classes=2) if self.gate else rule
        return ps.top(keep=self.keep) if self.sift == "top" else ps.uniform(keep=self.keep)


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"train: error: {' '.join(message.split())}\n")


def parser() -> Parser:
    p = Parser(
        "python -m models.train",
        description="Fine-tune a BERT on film reviews, training only on the sentences that still teach it something. "
        "Without options: four arms on generated reviews, a verdict and a table, in some minutes.",
        argument_default=argparse.SUPPRESS,  # so that what was given can be told from what was not
    )
    add = p.add_argument
    add("--data", metavar="WHAT", help="a TSV file, a folder of them or a hub name; left out: generated reviews")
    add("--model", help="small (from scratch, default), minilm (pretrained), or any Hugging Face name or folder")
    add("--sift", choices=[*IDLE], help="the rule (default: auto, which is ps.auto: only while it pays; on several "
        "ranks relative)")  # fmt: skip
    add("--keep", type=float, help=f"planned fraction to train on, in (0, 1] (default: {KEEP})")
    add("--beta", type=float, help="in place of --keep: keep = 1 / (1 + beta)")
    add("--history", type=whole(1), help="losses that relative and auto measure against (default: 1024)")
    add("--delay", type=whole(0), help="pools before sifting starts (default: 0)")
    add("--gate", action=argparse.BooleanOptionalAction,
        help="relative keeps everything while the model still guesses (default: --gate); see ps.gate")  # fmt: skip
    add("--score-dtype", choices=["auto", "float32", "bfloat16", "float16"],
        help="auto (default) takes the faster of float32 and bfloat16, measured on the first batch")  # fmt: skip
    add("--score-tokens", type=whole(0), metavar="N", help="score a sentence by its first N tokens, 0: by all "
        "(default: with auto 16 for small, 24 for others; else 0)")  # fmt: skip
    add("--bucket", action=argparse.BooleanOptionalAction,
        help="batches of like length, with little padding, in every arm (default: with auto)")  # fmt: skip
    add("--train-dtype", choices=["float32", "bfloat16"], help="bfloat16 trains under autocast (default: float32)")
    add("--epochs", type=whole(1), help=f"passes over the candidates (default: {Options.epochs})")
    add("--batch-size", type=whole(1), help="rows of a step, and of a pool of candidates, on all ranks together "
        "(default: 64)")  # fmt: skip
    add("--lr", type=float, help=f"peak rate (default: {RATES['small']} for small, {RATES['minilm']} for minilm, else "
        f"{PRETRAINED_RATE})")  # fmt: skip
    add("--max-length", type=whole(3), help="longest sentence in tokens (default: 64)")
    add("--limit", type=whole(2), help="use only the first so many training sentences")
    add("--seed", type=whole(0, 2**64 - 1), help="of data, weights, order, draws and dropout (default: 0)")
    add("--device", help="auto (default: cuda where there is one), cpu, cuda, cuda:1 ...")
    add("--threads", type=whole(1), help="CPU threads (default: as torch chooses)")
    add("--save-every", type=whole(1), help="pools between checkpoints (default: 50)")
    add("--compare", action=argparse.BooleanOptionalAction,
        help="train four arms and print one table (default: when no --data, --sift or --resume is given)")  # fmt: skip
    add("--out", metavar="FOLDER", help="the run folder (default: runs/ and the time)")
    add("--resume", action="store_true", help="resume the run in --out, bit for bit unless --sift is auto")
    return p


def whole(least: int, most: int = 2**31 - 1) -> Any:
    def number(text: str) -> int:
        value = int(text[:30]) if text.lstrip("+-").isdecimal() else None
        if value is None or not least <= value <= most:
            bound = f"<= {most}" if value is not None and value > most else f">= {least}"
            raise argparse.ArgumentTypeError(f"must be a whole number {bound}, got {text!r:.40}")
        return value

    return number


def parse(argv: list[str] | None) -> tuple[Options, Path, bool]:
    """The options, the run folder and whether to resume; raises ValueError for invalid options."""
    given = vars(parser().parse_args(argv))
    out, resume = given.pop("out", None), given.pop("resume", False)
    sifts = "sift" in given
    given = resolve(given)
    count, most = ranks.restarts()
    if most and out is None:
        raise ValueError("torchrun --max-restarts needs --out: a restart goes on with the run in that folder")
    if resume or (count and files.saved(Path(out or "."))):
        if out is None:
            raise ValueError("--resume needs --out, the folder of the run to resume")
        return shared(agreed(Path(out), given)), Path(out), True
    if place()[1] > 1:
        given.setdefault("sift", "relative")
    compare = given.setdefault("compare", not sifts and given.get("data") is None)
    model = given.get("model", Options.model)
    given.setdefault("lr", RATES.get(model, PRETRAINED_RATE))
    if given.get("sift", Options.sift) == "auto":
        given = {"bucket": place()[1] == 1, "score_tokens": TOKENS.get(model, PRETRAINED_TOKENS)} | given
    given = resolve({"device": "auto"} | given)
    options = Options(**{"threads": torch.get_num_threads()} | given)
    if compare and options.sift in ("none", "uniform"):
        raise ValueError(
            f"--compare sets a rule against no rule, but --sift is {options.sift}: choose auto, relative or top"
        )
    if options.sift in ("auto", "relative") and options.history < options.batch_size:
        raise ValueError(
            f"--history must be at least --batch-size, {options.batch_size}, got {options.history}: raise it"
        )
    folder = Path(out) if out is not None else Path("runs") / f"{options.model.split('/')[-1]}-{now()}"
    shared(options)
    files.unused(folder)
    files.writable(folder)
    return options, folder, False


def resolve(given: dict[str, Any]) -> dict[str, Any]:
    """The given options, checked one by one, in the form that a run folder stores."""
    given = dict(given)
    sift = given.get("sift", "relative")
    for name in IDLE[sift]:
        if name in given and not (name in ("delay", "score_tokens") and given[name] == 0):
            raise ValueError(f"--{name.replace('_', '-')} does nothing with --sift {sift}: leave it out")
    if "beta" in given:
        beta = given.pop("beta")
        if "keep" in given:
            raise ValueError("give --keep or --beta, not both: keep = 1 / (1 + beta)")
        if not 0 <= beta < math.inf:
            raise ValueError(f"--beta must be in [0, inf), got {beta}: keep = 1 / (1 + beta)")
        given["keep"] = 1 / (1 + beta)
    elif "keep" in given and not 0 < given["keep"] <= 1:
        raise ValueError(f"--keep must be in (0, 1], got {given['keep']}: it is the fraction to train on")
    if "lr" in given and not 0 < given["lr"] < math.inf:
        raise ValueError(f"--lr must be a number above 0, got {given['lr']}")
    if given.get("data") is not None and Path(given["data"]).expanduser().exists():
        given["data"] = str(Path(given["data"]).expanduser().resolve())  # the run may be resumed from elsewhere
    if "device" in given:
        given["device"] = device(given["device"])
    return given


def device(name: str) -> str:
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).sum().item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        has = "cpu and cuda" if torch.cuda.is_available() else "cpu"
        raise ValueError(f"--device {name} is not available here: choose {has}, or auto") from error
    return name


def agreed(folder: Path, given: dict[str, Any]) -> Options:
    """The options of the run in `folder`, if the options given with --resume agree with them."""
    config = files.read_json(folder / "config.json")
    if config is None or not files.saved(folder):
        raise ValueError(f"--resume: no checkpoint in {folder}: check --out, or start the run without --resume")
    config = {"gate": False, "score_tokens": 0, "bucket": False} | config  # runs of earlier versions had none
    for f in fields(Options):
        if f.name not in config:
            raise ValueError(f"{folder}/config.json has no entry {f.name!r}: another version wrote it; start again")
        value = config[f.name]
        real = isinstance(value, f.type | int if f.type is float else f.type)
        if not real or (f.type is not bool and isinstance(value, bool)) or (f.name == "sift" and value not in IDLE):
            raise ValueError(f"{folder}/config.json is damaged ({f.name} is {value!r:.60}): {files.RESTORE}")
    options = Options(**{f.name: config[f.name] for f in fields(Options)})
    for name, value in given.items():
        ours = asdict(options)[name]
        if value != ours:
            raise ValueError(
                f"--{name.replace('_', '-')} {value} disagrees with the run in {folder}, which has {ours}: "
                "leave it out, or start a new run in another --out"
            )
    return options


def shared(options: Options) -> Options:
    """The options, if so many ranks can share them."""
    _, world = place()
    if world == 1:
        return options
    if options.sift == "auto":
        raise ValueError(
            f"--sift auto follows the clock of one process, and there are {world} ranks: choose relative, or go on "
            "with one"
        )
    if options.bucket:
        raise ValueError(
            f"--bucket sorts the rows of one process, and there are {world} ranks: leave it out, or go on with one"
        )
    if options.batch_size % world:
        raise ValueError(
            f"--batch-size {options.batch_size} is the batch of all ranks, and {world} of them cannot share it: "
            "choose a multiple"
        )
    if options.device.startswith("cuda:"):
        raise ValueError(
            f"--device {options.device} is one GPU, and there are {world} ranks: --device cuda is one each"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    if options.device == "cuda" and here > torch.cuda.device_count():
        raise ValueError(
            f"{here} ranks have {torch.cuda.device_count()} GPUs: lower --nproc-per-node, or choose --device cpu"
        )
    return options


def now() -> str:
    return datetime.now().strftime("%Y%m%d-%H%M%S")
