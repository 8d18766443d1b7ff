"""The command: what it prints, what it plots, and one line on stderr with exit code 2 for whatever goes wrong."""

import importlib.util
import json
import re
import subprocess
import sys
import textwrap

import pytest
import torch

import puresift as ps
from puresift.cli import main, parse_rule

ARROW = importlib.util.find_spec("pyarrow") is not None


@pytest.fixture
def log(tmp_path):
    """320 losses, the last 16 unscored; class 1 has the larger half of each pool's."""
    sifter = ps.sifter(
        lambda params, batch: batch[0],
        ps.relative(keep=0.5),
        batch_size=64,
        columns={"id": lambda batch: batch[1], "label": lambda batch: (batch[0] > 0.5).long()},
    )
    values = ps.keys.uniform(ps.key(0), 320)
    pools = list(zip(values.split(64), torch.arange(320).split(64), strict=True))
    state = sifter.init(ps.key(0), pools[0])
    with ps.AuditLog(tmp_path / "log.jsonl") as written:
        for at, pool in enumerate(pools):
            state, info = sifter.step(state, {}, pool)
            state, _ = sifter.flush(state)
            if at == 4:
                info = info._replace(losses=torch.where(torch.arange(64) < 48, info.losses, torch.nan))
            written.write(info, state.step)
    return tmp_path / "log.jsonl"


def test_replay_prints_what_each_rule_would_have_kept(log, capsys):
    rules = ["relative:keep=0.5,history=256", "top:keep=0.25", "uniform:keep=1"]
    assert main(["replay", str(log), "--rules", *rules, "--phi", "0.2"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "304 losses in pools of 64; 16 rows without a finite loss left out" in out
    losses = ps.read_log(log).columns["loss"]
    losses = losses[losses.isfinite()]
    answer = ps.compare({rule: parse_rule(rule) for rule in rules}, losses)
    for row, rule in enumerate(rules):
        found = re.search(rf"^{re.escape(rule)} +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+)( .*)?$", out, re.MULTILINE)
        keep = float(answer.keep[row])
        assert [float(part) for part in found.groups()[:4]] == pytest.approx(
            [keep, float(answer.planned[row]), float(answer.ess[row]), keep + 0.2], abs=6e-4
        )
        assert bool(found[5]) == (rule == "uniform:keep=1")
    assert re.search(r"^top:keep=0.25 +0.000 +1.000$", out, re.MULTILINE), "top keeps none of the lower class"
    assert re.search(r"^uniform:keep=1 +0.\d+  0.25  1.00$", out, re.MULTILINE), "the overlap"


def test_replay_plots(log, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    picture = tmp_path / "out.png"
    assert main(["replay", str(log), "--rules", "top:keep=0.25", "relative:beta=3", "--plot", str(picture)]) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"plotted to {picture}" in capsys.readouterr().out


def test_a_damaged_log_is_replayed_as_far_as_it_can_be_read(log, capsys):
    log.write_bytes(log.read_bytes()[:5000])
    assert main(["replay", str(log), "--rules", "top:keep=0.25"]) == 0
    out, err = capsys.readouterr()
    assert " losses in pools of 64" in out
    assert re.fullmatch(r"puresift: log.jsonl: 1 of \d+ lines cannot be read and were left out, .*\n", err)


def test_without_classes_there_is_no_mix_and_text_classes_work(tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps({"loss": at, "kind": f"k{at % 12}"}) + "\n" for at in range(48)))
    assert main(["replay", str(path), "--rules", "top:keep=0.5"]) == 0
    assert "class mix" not in capsys.readouterr().out
    assert main(["replay", str(path), "--rules", "top:keep=0.5", "--label", "kind"]) == 0
    out = capsys.readouterr().out
    assert "class mix" in out
    assert "(the 10 most frequent of 12 classes)" in out
    assert "overlap" not in out


@pytest.mark.skipif(not ARROW, reason="needs pyarrow")
def test_parquet_is_replayed_too(tmp_path, capsys):
    odds = ps.Odds(torch.ones(8), torch.ones(8))
    with ps.AuditLog(tmp_path / "log.parquet") as written:
        written.write(ps.Info(torch.arange(8.0), odds, torch.ones(8).bool(), {}), 1)
    assert main(["replay", str(tmp_path / "log.parquet"), "--rules", "top:keep=0.5"]) == 0
    assert "8 losses" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("best:keep=0.5", r"there is no rule 'best'; there are .*relative, .*top"),
        ("delay:steps=3", "there is no rule 'delay'"),
        ("__import__:os=1", "there is no rule '__import__'"),
        ("top:kep=0.5", "top has no setting 'kep'; it has keep, each as NAME=NUMBER"),
        ("top:0.5", "top has no setting '0.5'"),
        ("top:keep=half", "top:keep must be a number, got 'half'"),
        ("top", "top needs keep, such as top:keep=0.5"),
        ("top:keep=2", r"keep must be in \(0, 1\], got 2"),
        ("relative:keep=0.5,history=0.5", "history must be a whole number >= 1"),
        ("relative", "exactly one of keep .* and beta"),
    ],
)
def test_bad_rules_are_one_line(log, capsys, rule, words):
    assert main(["replay", str(log), "--rules", rule]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(f"puresift: .*{words}.*\n", err), err


@pytest.mark.parametrize(
    ("content", "more", "words"),
    [
        (None, [], "No such file"),
        ("", [], 'no line that is a JSON object with a "loss"'),
        ('{"loss": null}\n', [], "none of the 1 rows of .* has a finite loss"),
        ('{"loss": 1}\n', ["--pool", "0"], "pool must be a whole number >= 1"),
        ('{"loss": 1}\n', ["--label", "kind"], "the log has no column 'kind'; it has loss"),
    ],
)
def test_bad_logs_are_one_line(tmp_path, capsys, content, more, words):
    path = tmp_path / "log.jsonl"
    if content is not None:
        path.write_text(content)
    assert main(["replay", str(path), "--rules", "top:keep=0.5", *more]) == 2
    assert re.fullmatch(f"puresift: .*{words}.*\n", capsys.readouterr().err)


MODULE = """
import torch
X = torch.arange(12.0).reshape(4, 3)
def good(): return lambda params, x: x.sum(1), {}, X
def bad(): return lambda params, x: x.mean(), {}, X
def short(): return X
def raising(): return lambda params, x: (x @ x).sum(1), {}, X
def broken(): return {}["model"]
"""


def test_check_imports_a_factory_and_checks_its_score(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine_to_check.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_to_check", raising=False)
    path = list(sys.path)
    assert main(["check", "mine_to_check:good"]) == 0
    assert "4 rows checked: one finite loss a row, mean 16.5; nothing was changed" in capsys.readouterr().out
    for target, words in {
        "mine_to_check:bad": "already reduced to one number",
        "mine_to_check:short": r"must return \(score, params, batch\), got Tensor",
        "mine_to_check:raising": "the score raised RuntimeError: mat1 and mat2",
        "mine_to_check:broken": r"mine_to_check:broken\(\) raised KeyError: 'model'",
        "mine_to_check:none": "cannot be imported: .*no attribute 'none'",
        "no_such_module:x": "cannot be imported: No module named",
        "mine_to_check": "write MODULE:FACTORY",
    }.items():
        assert main(["check", target]) == (1 if target in ("mine_to_check:bad", "mine_to_check:raising") else 2), target
        assert re.fullmatch(f"puresift: .*{words}.*\n", capsys.readouterr().err)
    assert sys.path == path


@pytest.mark.parametrize("arguments", [[], ["replay"], ["replay", "log.jsonl"], ["frobnicate"]])
def test_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert re.fullmatch(r"puresift( replay)?: .*; puresift( replay)? --help says more\n", capsys.readouterr().err)


@pytest.mark.parametrize("command", [[], ["replay"], ["report"], ["check"], ["advise"]])
def test_help_helps(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert f"usage: {' '.join(['puresift', *command])}" in out
    if command:
        assert f"example: puresift {command[0]} " in out
    else:
        assert "exit codes: 0 done; 1 a check found the score at fault; 2" in out
        assert "does that pay on your job?" in out, "what it is for, and where to begin"


def test_report_writes_a_page_and_its_figures(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    with ps.Recorder(tmp_path / "run") as recorder:
        recorder.evaluate(1, seconds=1.0, accuracy=0.5)
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert re.fullmatch(r".*report\.html \(\d+ kB, stands alone; figures: accuracy\.png\)\n", out) and not err
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "accuracy.png"}


def test_what_cannot_be_reported_is_one_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "sifting.jsonl").write_text('{"kind": "run", "format": 1}\n{"kind": \n')
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "sifting.jsonl").write_text('{"kind": "run", "format": 9}\n')
    for name, words in {
        "none": "there is no .*none; give the folder of a run",
        "empty": r"empty is no run: there is no sifting\.jsonl in it",
        "broken": r"sifting\.jsonl:2: not JSON .*; remove the line",
        "newer": r"sifting\.jsonl:1: format 9, but this puresift reads format 1",
    }.items():
        assert main(["report", str(tmp_path / name), "--out", str(tmp_path / "out")]) == 2
        assert re.fullmatch(f"puresift: .*{words}.*\n", capsys.readouterr().err)
    (tmp_path / "file").write_text("")
    ps.Recorder(tmp_path / "run")
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "file")]) == 2
    assert re.fullmatch("puresift: .*File exists.*\n", capsys.readouterr().err)


def test_without_matplotlib_a_report_names_the_cure(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with ps.Recorder(tmp_path / "run") as recorder:
        recorder.evaluate(1, seconds=1.0, accuracy=0.5)
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == 'puresift: a report needs matplotlib: pip install "puresift[report]"\n'


def test_it_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "puresift", "replay", "none.jsonl", "--rules", "top:keep=1"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1


BIG = "9" * 400
ROWS = "".join(f'{{"loss": {at % 7}.5, "id": {at}}}\n' for at in range(70))


@pytest.mark.parametrize(
    "line",
    [
        "[" * 100_000,
        '{"loss": 1, "label": ' + "[" * 900 + "]" * 900 + "}",
        f'{{"loss": {BIG}, "age": {BIG}}}',
        f'{{"loss": 1, "id": {2**70}}}',
        '{"loss": 1, "label": "\\ud800\\n\\u001b[31m"}',
        '{"loss": 1, "state": 1, "losses": 2, "self": 3}',
        '{"loss": "NaN"}',
        '{"loss": NaN}',
        "\udcff\udcfe",
        "\0" * 99,
    ],
)
def test_a_hostile_line_does_not_keep_the_others_from_being_replayed(line, tmp_path, capsys):
    path = tmp_path / "log.jsonl"
    path.write_text(ROWS + line + "\n", errors="surrogateescape")
    assert main(["replay", str(path), "--rules", "top:keep=0.5", "relative:keep=0.5"]) == 0
    out, err = capsys.readouterr()
    assert re.match("7[01] losses in pools of 64", out) and err.count("\n") <= 1
    assert (out + err).encode() and "\x1b" not in out
    path.write_text(f"{line}\n" * 70, errors="surrogateescape")
    assert main(["replay", str(path), "--rules", "top:keep=0.5"]) in (0, 2)
    assert capsys.readouterr().err.count("\n") <= 1


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (
            "relative:keep=0.5,history=1000000000000",
            r"relative:history must be at most 16,777,216 in a replay, got 10+; ",
        ),
        (
            f"relative:keep=0.5,history={BIG}",
            r"relative:history must be at most 16,777,216 in a replay, got 9{40}; lower",
        ),
        ("relative:keep=0.5,sketch=99999999999", "relative:sketch must be at most"),
        (f"threshold:value={BIG}", r"value must be in \(-inf, inf\), got inf"),
        (f"top:keep=-{BIG}", r"keep must be in \(0, 1\], got -inf"),
        ("top:keep=nan", r"keep must be in \(0, 1\], got nan"),
        ("top:keep=0.5,keep=0.1", "top:keep is given twice; leave one out"),
    ],
)
def test_absurd_settings_are_one_line(log, capsys, rule, words):
    assert main(["replay", str(log), "--rules", rule]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(f"puresift: {words}.*\n", err), err


@pytest.mark.parametrize("phi", ["nan", "-1", "inf", "-inf", BIG, "much"])
def test_phi_is_a_finite_cost(log, capsys, phi):
    with pytest.raises(SystemExit) as stop:
        main(["replay", str(log), "--rules", "top:keep=0.5", f"--phi={phi}"])
    assert stop.value.code == 2
    words = "puresift replay: argument --phi: must be a number >= 0, got .*; puresift replay --help says more\n"
    assert re.fullmatch(words, capsys.readouterr().err)


def test_an_absurd_pool_is_one_pool(log, capsys):
    assert main(["replay", str(log), "--rules", "top:keep=0.25", "--pool", "304"]) == 0
    whole = capsys.readouterr().out
    for pool in (BIG, str(2**63)):
        assert main(["replay", str(log), "--rules", "top:keep=0.25", "--pool", pool]) == 0
        assert capsys.readouterr().out == whole.replace("pools of 304", f"pools of {pool}")


def test_a_folder_is_no_log(tmp_path, capsys):
    assert main(["replay", str(tmp_path), "--rules", "top:keep=0.25"]) == 2
    assert "is a folder; give the .jsonl or .parquet file in it" in capsys.readouterr().err


def test_an_endless_message_is_cut_in_the_middle(capsys):
    assert main(["check", "a" * 5000 + ":f"]) == 2
    err = capsys.readouterr().err
    assert len(err) < 1300 and " ... " in err and err.count("\n") == 1


MODULES = {
    "divides": "1 / 0",
    "broken": "def (",
    "leaves": "import sys; sys.exit(0)",
    "guards": "def __getattr__(name): raise RuntimeError(name)",
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_cannot_be_imported_is_one_line(name, tmp_path, capsys, monkeypatch):
    (tmp_path / f"hostile_{name}.py").write_text(MODULES[name] + "\n")
    monkeypatch.chdir(tmp_path)
    assert main(["check", f"hostile_{name}:f"]) == 2
    assert re.fullmatch(rf"puresift: hostile_{name}:f cannot be imported: \w+: .*\n", capsys.readouterr().err)


@pytest.mark.parametrize("target", [".x:f", "..:f", ":f", "\ud800:f"])
def test_a_target_that_is_no_module_is_one_line(target, capsys):
    assert main(["check", target]) == 2
    assert re.fullmatch("puresift: .*cannot be imported: .*\n", capsys.readouterr().err)


def test_a_score_that_leaves_the_program_is_at_fault(tmp_path, capsys, monkeypatch):
    (tmp_path / "leaving.py").write_text(
        "import sys, torch\ndef made(): return lambda params, x: sys.exit(0), {}, torch.ones(4)\n"
        "def left(): sys.exit(0)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["check", "leaving:made"]) == 1
    assert main(["check", "leaving:left"]) == 2
    assert re.fullmatch("puresift: the score raised SystemExit.*\n.*raised SystemExit: 0\n", capsys.readouterr().err)


JOBS = """
import torch
import puresift as ps
from torch.utils.data import DataLoader, IterableDataset

class Rows(IterableDataset):
    def __iter__(self): return iter(torch.rand(64, 4))

net = torch.nn.Linear(4, 1)
def loss(model, x): return (model(x)[:, 0] - x.sum(1)).square()
def wrong(model, x): return loss(model, x) / 0 * 0
loader = DataLoader(torch.rand(64, 4), 8)
job = net, loss, loader, torch.optim.SGD(net.parameters(), 0.01)
def made(): return {"model": net, "loss": loss, "loader": loader, "passes": 2, "seconds": 0.5}
def raising(): return {}["model"]
short = net, loss
text = "job"
partial = {"model": net, "loss": loss}
unknown = {"model": net, "loss": loss, "loader": loader, "lodaer": loader}
endless = net, loss, DataLoader(Rows(), 8)
nothing = net, wrong, loader
frozen = torch.nn.Linear(4, 1).eval(), loss, loader
empty = net, loss, DataLoader(torch.rand(0, 4), 8, sampler=[])
once = net, loss, iter([torch.rand(8, 4)])
"""
UNUSABLE = {
    "none": "cannot be imported: .*no attribute 'none'",
    "raising": r"raising\(\) raised KeyError: 'model'",
    "short": r"must be or return \(model, loss, loader\) or .*, got tuple",
    "text": r"must be or return .*, got str",
    "partial": "gives no loader",
    "unknown": "gives 'lodaer', which ps.advise does not take; it takes model, loss",
    "endless": "the loader has no length, .*; pass steps=",
    "nothing": "is NaN or infinite",
    "frozen": "the model is in eval mode.*; call model.train",
    "empty": "the loader is empty",
    "once": "one-shot iterator.*; pass an iterable that starts anew",
}


@pytest.fixture
def script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "jobs_to_advise.py").write_text(JOBS)
    yield tmp_path / "jobs_to_advise.py"
    sys.modules.pop("jobs_to_advise", None)
    sys.modules.pop("puresift_script_jobs_to_advise", None)


@pytest.mark.parametrize("target", ["jobs_to_advise.py:job", "jobs_to_advise:job", "jobs_to_advise.py:made"])
def test_advise_takes_a_script_or_a_module(target, script, capsys):
    path = list(sys.path)
    assert main(["advise", target, "--passes", "3", "--seconds", "1"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and sys.path == path
    assert out.startswith("DO NOT SIFT: 24 steps are few")
    assert "What cutting the run to 60% costs is open, for it was not measured" in " ".join(out.split())
    assert "each of 64 samples comes 3 times (passes=3)" in out
    assert "itertools.islice(ps.epochs(loader, n=3), 15)" in out


def test_without_passes_the_page_says_what_was_assumed(script, capsys):
    for arguments in ([], ["--passes", "1"], ["--steps", "8"]):
        assert main(["advise", f"{script}:job", "--seconds", "1", *arguments]) == 0
        assert ("beware       one pass was assumed; --passes N" in capsys.readouterr().out) == (arguments == [])


def test_the_job_in_the_help_of_advise_can_be_advised(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        main(["advise", "--help"])
    example = capsys.readouterr().out.split("such as\n\n")[1]
    assert len(example.rstrip().splitlines()) == 6
    (tmp_path / "job_in_help.py").write_text(textwrap.dedent(example))
    monkeypatch.chdir(tmp_path)
    assert main(["advise", "job_in_help.py:job", "--passes", "20", "--seconds", "1"]) == 0
    assert "each of 640 samples comes 20 times (passes=20)" in capsys.readouterr().out
    sys.modules.pop("puresift_script_job_in_help")


def test_a_loader_without_a_length_is_advised_once_its_steps_are_told(script, capsys):
    assert main(["advise", f"{script}:endless", "--steps", "8", "--seconds", "1"]) == 0
    assert "8 steps of 8 rows; samples have no ids" in capsys.readouterr().out


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_job_that_cannot_be_advised_is_one_line(name, script, capsys):
    assert main(["advise", f"{script}:{name}", "--seconds", "1"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and re.fullmatch(f"puresift: .*{UNUSABLE[name]}.*\n", err), err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train.py"], "write SCRIPT:NAME, such as train.py:job, got 'train.py'"),
        (["no_such_script.py:job"], "no_such_script.py:job cannot be imported: FileNotFoundError: "),
        (["jobs_to_advise.py:job", "--passes", "0"], r"passes must be in \(0, inf\), got 0"),
        (["jobs_to_advise.py:job", "--steps", "0"], "steps must be a whole number >= 1, got 0"),
        (["jobs_to_advise.py:job", "--seconds", "nan"], r"seconds must be in \(0, inf\), got nan"),
    ],
)
def test_bad_settings_of_advise_are_one_line(arguments, words, script, capsys):
    assert main(["advise", *arguments]) == 2
    assert re.fullmatch(f"puresift: {words}.*\n", capsys.readouterr().err)


def test_rules_by_name_are_where_they_were():
    from puresift.records import audit
    from puresift.trials import named

    assert parse_rule is named.parse_rule and audit.read_log is ps.read_log
