"""From a loop to a run folder, and from run folders to a page that stands alone."""

import base64
import json
import re
import warnings
from html.parser import HTMLParser

import pytest
import torch

import puresift as ps
from puresift import report
from puresift.records.counts import EDGES
from puresift.records.recorder import FILE
from tests import laws

pytest.importorskip("matplotlib")

HOSTILE = [
    "<script>alert('owned')</script> & \"quotes\"",
    "مرحبا <b>بالعالم</b>",
    "emoji 🎉 &amp; an entity",
    "</p></li><img src=http://example.org/x.png onerror=alert(1)>",
    "\ud83d half a pair\x00\x1b[31m",
]
FIGURES = {"accuracy.png", "kept.png", "losses.png", "threshold.png", "classes.png", "governor.png"}


def infos(pools=12, rows=8, score=True, columns=True):
    """Pools of a random walk: losses as large as the id, two passes over the ids."""
    named = {"id": lambda x: x.long(), "label": lambda x: (x > 20).long()} if columns else {}
    rule = ps.relative(keep=0.5) if score else ps.uniform(keep=0.5)
    sifter = ps.sifter((lambda params, x: x / 16) if score else None, rule, batch_size=rows, columns=named)
    state = sifter.init(ps.key(0), torch.zeros(rows))
    for at in range(pools):
        state, info = sifter.step(state, {}, torch.arange(rows * 1.0) + rows * (at % (pools // 2)))
        state, _ = sifter.flush(state)
        governed = {"sifting": torch.tensor([at % 3 > 0]), "phi": torch.tensor([0.25])} if score else {}
        yield state.step, info._replace(extra={**info.extra, **governed})


def record(folder, *, given=None, every=2, **settings):
    with ps.Recorder(folder, every=every, **settings) as recorder:
        recorder.evaluate(0, seconds=0.0, accuracy=0.5)
        for step, info in infos() if given is None else given:
            recorder.write(info, step, seconds=2.0 * int(step))
        recorder.evaluate(step, seconds=30.0, accuracy=0.75)
    return folder


def lines(folder):
    return [json.loads(line) for line in (folder / FILE).read_text().splitlines()]


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts = [], []
        self.raw = path.read_text(encoding="utf-8")
        self.feed(self.raw)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)

    def of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def test_a_recorder_counts_what_was_seen_and_kept(tmp_path):
    given = list(infos())
    losses, mask, ids = (
        torch.cat(parts) for parts in zip(*((i.losses, i.mask, i.extra["id"]) for _, i in given), strict=True)
    )
    written = lines(record(tmp_path, classes=["low", "high"], sample=lambda id: {"text": f"number {id}"}, shown=4))
    of = {kind: [line for line in written if line["kind"] == kind] for kind in {line["kind"] for line in written}}
    assert [line["pool"] for line in of["pools"]] == [2, 4, 6, 8, 10, 12]
    assert sum(line["seen"] for line in of["pools"]) == 96
    assert sum(line["kept"] for line in of["pools"]) == int(mask.sum())
    assert sum((line["sifting"] for line in of["pools"]), []) == [0, 1, 1] * 4
    assert [(line["seconds"], line["accuracy"]) for line in of["evaluation"]] == [(0, 0.5), (30, 0.75)]
    (histogram,) = of["losses"]
    places = torch.bucketize(losses.double(), EDGES)
    assert sum(histogram["seen"]) == 96 and sum(histogram["kept"]) == int(mask.sum())
    assert len(histogram["seen"]) == int(places.max() - places.min()) + 1
    high = ids > 20
    expected = {("low", int((~high).sum()), int(mask[~high].sum())), ("high", int(high.sum()), int(mask[high].sum()))}
    assert {(line["label"], line["seen"], line["kept"]) for line in of["class"]} == expected
    for sample in of["sample"]:
        assert (sample["seen"], sample["kept"]) == (2, int(mask[ids == sample["id"]].sum()))
        assert sample["loss"] == pytest.approx(sample["id"] / 16) and sample["text"] == f"number {sample['id']}"
        assert sample["label"] == ("high" if sample["id"] > 20 else "low")
    most, least = ([s["kept"] for s in of["sample"] if s["rank"] == rank] for rank in ("most", "least"))
    assert len(most) == len(least) == 4 and min(most) == 2 and max(least) == 0


def test_gone_on_with_at_any_pool_the_file_is_the_same(tmp_path):
    def rest(recorder, given):
        for step, info in given:
            recorder.write(info, step, seconds=float(step), phi=0.5)
            if int(step) % 5 == 0:
                recorder.evaluate(step, seconds=float(step), accuracy=0.1)
        recorder.close()
        return recorder.path.read_bytes()

    given, settings = list(infos()), {"name": "a run", "every": 3}
    whole = rest(ps.Recorder(tmp_path / "whole", **settings), given)
    for at in range(len(given)):
        recorder = ps.Recorder(tmp_path / f"from {at}", **settings)
        for step, info in given[:at]:
            recorder.write(info, step, seconds=float(step), phi=0.5)
            if int(step) % 5 == 0:
                recorder.evaluate(step, seconds=float(step), accuracy=0.1)
        torch.save(recorder.state_dict(), tmp_path / "state.pt")
        recorder.close()  # lines that the state does not know of, and then a torn one
        with recorder.path.open("ab") as file:
            file.write(b'{"kind": "po')
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        assert rest(ps.Recorder(recorder.path.parent, state=state, **settings), given[at:]) == whole


def test_a_recorder_refuses_in_words(tmp_path):
    state = ps.Recorder(tmp_path / "run").state_dict()
    with pytest.raises(ValueError, match="holds a run; choose another folder"):
        ps.Recorder(tmp_path / "run")
    (tmp_path / "run" / FILE).write_text("")
    with pytest.raises(ValueError, match="shorter than when the state was taken"):
        ps.Recorder(tmp_path / "run", state=state)
    with pytest.raises(ValueError, match="every must be a whole number >= 1, got 0"):
        ps.Recorder(tmp_path / "other", every=0)
    with pytest.raises(ValueError, match=r"an image is a tensor \[H, W\]"):
        record(tmp_path / "image", sample=lambda id: {"image": torch.zeros(2, 3, 4)})


@pytest.mark.parametrize("shape", [(5, 7), (1, 5, 7), (3, 5, 7)])
def test_images_are_written_as_png(shape):
    image = pytest.importorskip("matplotlib.image")
    from io import BytesIO

    from puresift.records.images import data_uri

    pixels = torch.arange(1.0, 1 + torch.Size(shape).numel()).reshape(shape) / 255
    head, data = data_uri((pixels * 255).byte() if len(shape) == 3 else pixels).split(",")
    assert head == "data:image/png;base64"
    read = torch.from_numpy(image.imread(BytesIO(base64.b64decode(data))))
    wanted = pixels.permute(1, 2, 0) if shape[0] == 3 else pixels.reshape(5, 7)
    assert laws.equal((read[..., :3] if shape[0] == 3 else read) * 255, (wanted * 255).round())
    wide = base64.b64decode(data_uri(torch.randn(3, 100, 640)).split(",")[1])
    assert wide[16:24] == (160).to_bytes(4, "big") + (25).to_bytes(4, "big")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A page of three runs: one with all parts, one that scored nothing, one that only evaluated."""
    place = tmp_path_factory.mktemp("runs")
    full = record(
        place / "full",
        name="<i>full</i> & $x_1$",
        classes=["_low $\\frac$", "<u>high</u>"],  # no mathematics: it would not parse
        sample=lambda id: {"text": HOSTILE[id % 5], "image": torch.rand(4, 4)},
        facts={"lr": "<b>0.1</b>"},
    )
    random = record(place / "random", given=infos(score=False, columns=False))
    plain = ps.Recorder(place / "plain")
    plain.evaluate(3, seconds=1.0, accuracy=0.25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        files = report.write([full, random, plain.path.parent], place / "out")
    return files, Page(files[0])


def test_the_page_has_every_part(made):
    files, page = made
    assert {file.name for file in files[1:]} == FIGURES
    assert all(file.read_bytes().startswith(b"\x89PNG") and file.stat().st_size > 4000 for file in files[1:])
    text = " ".join(page.texts)
    for title in ("Runs", "Over time", "Losses", "Class mix", "Most and least kept samples", "Words"):
        assert f"<h2>{title}</h2>" in page.raw
    alts = [attrs["alt"] for attrs in page.of("img") if "svg" in attrs["src"]]
    assert len(alts) == 6
    for words in (
        "<i>full</i> & $x_1$ ends at 75 % after 30 s",
        "random ends at 75 % after 30 s",
        "at a phi of 0.25",
        "the median loss seen is",
        "sifted 8 of 12 pools",
        "<u>high</u>",
        "a tenth of the kept losses lies below",
    ):
        assert sum(words in alt for alt in alts) == 1, words
    assert "75.00 %" in text and "25.00 %" in text and "30.0 s" in text and "kept 2 of 2 times" in text


def test_what_there_is_not_is_left_out_in_one_line(made, tmp_path):
    _, page = made
    left = re.findall(r'<p class="none">(.*?)</p>', page.raw)
    assert [re.sub("<.*?>", "", line) for line in left] == [
        "Left out: losses of random, plain, where nothing was scored.",
        "Left out: what it takes to be kept of random, plain, where nothing was scored.",
        "Left out: class mix of random, plain, where the sifter declared no column &quot;label&quot;.",
        *["Left out: samples, for which the sifter has to declare a column &quot;id&quot;."] * 2,
    ]
    bare = ps.Recorder(tmp_path / "bare")
    files = report.write([tmp_path / "bare"], tmp_path / "out")
    assert [file.name for file in files] == ["report.html"] and bare.path.exists()
    assert files[0].read_text().count('<p class="none">Left out: ') == 7
    record(tmp_path / "no text", given=infos(score=False))
    text = report.write([tmp_path / "no text"], tmp_path / "out")[0].read_text()
    assert "Text and images left out" in text


def test_texts_of_a_run_stay_texts(made):
    _, page = made
    assert not {"script", "b", "i", "u"} & {tag for tag, _ in page.tags}
    texts = [text for text in page.texts if text.strip()]
    for hostile in HOSTILE[:4]:
        assert hostile in texts
    assert any("half a pair\ufffd\ufffd[31m" in text for text in texts)
    assert "<i>full</i> & $x_1$" in texts and "<b>0.1</b>" in texts and "<u>high</u>" in texts
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert all("dir" in attrs for attrs in page.of("p") if attrs.get("class") == "text")


def test_the_page_stands_alone(made):
    _, page = made
    linked = [v for _, attrs in page.tags for k, v in attrs.items() if k in ("src", "href", "srcset", "data", "action")]
    assert linked and all(re.match(r"data:image/(png|svg\+xml);base64,", link) for link in linked)
    assert not page.of("link") and not page.of("iframe") and "@import" not in page.raw and "url(" not in page.raw
    svgs = [base64.b64decode(link.split(",")[1]).decode() for link in linked if "svg" in link]
    for svg in svgs:
        assert not [link for link in re.findall(r'href="([^"]*)"', svg) if not link.startswith("#")]
    assert all(attrs["alt"] for attrs in page.of("img"))
    policy = next(attrs for attrs in page.of("meta") if attrs.get("http-equiv"))
    assert policy["content"].startswith("default-src 'none'")


def test_runs_of_one_name_are_told_apart_and_folders_of_runs_are_read(tmp_path):
    for place in ("one/sifted", "two/sifted"):
        record(tmp_path / place, given=infos(score=False))
    files = report.write([tmp_path / "one", tmp_path / "two" / "sifted" / FILE, tmp_path / "one"], tmp_path / "out")
    rows = re.findall(r'<td data-name="run"><span><bdi>(.*?)</bdi>', files[0].read_text())
    assert rows == ["one/sifted", "two/sifted"]
    assert {"classes-one-sifted.png", "classes-two-sifted.png"} < {file.name for file in files}


def test_another_program_may_write_the_folder(tmp_path):
    """By the documented format alone; numbers that are not known are null."""
    (tmp_path / "dot.png").write_bytes(base64.b64decode(PNG))
    (tmp_path / FILE).write_text(
        "".join(
            json.dumps(line) + "\n"
            for line in [
                {"kind": "run", "format": 1},
                {"kind": "pools", "pool": 5, "seconds": 9000, "seen": 320, "kept": 80, "loss": None, "mine": "x"},
                {"kind": "evaluation", "pool": 5, "seconds": 40000, "bleu": -3.5, "note": "unused"},
                {"kind": "losses", "edges": [-2, 0, 1.5], "seen": [3, 4], "kept": [0, 4]},
                {"kind": "sample", "rank": "most", "id": "doc-7", "seen": 1, "kept": 1, "image": "dot.png"},
                {"kind": "sample", "rank": "most", "id": 8, "seen": 1, "kept": 1, "image": "https://example.org/a.png"},
            ]
        )
    )
    with pytest.warns(UserWarning, match=r"the image 'https://example.org/a.png' is neither .* left out"):
        files = report.write([tmp_path], tmp_path / "out")
    page = Page(files[0])
    assert {file.name for file in files} == {"report.html", "evaluations.png", "kept.png", "losses.png"}
    assert [attrs["src"].split(",")[1] for attrs in page.of("img") if "png" in attrs["src"][:16]] == [PNG]
    assert {"doc-7", "-3.5000", "25.0 %", "40,000 s"} <= set(page.texts)


PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg=="
HEAD = '{"kind": "run", "format": 1}\n'
BAD = {
    "not a run": ('{"loss": 0.5}\n', r":1: want an object with a \"kind\" among run, pools"),
    "no head": ('{"kind": "pools", "pool": 1, "seconds": 2}\n', 'no run: its first line must have the "kind" "run"'),
    "empty": ("", "no run: its first line"),
    "broken": (HEAD + '{"kind": "pools", \n' + HEAD, ":2: not JSON .*; remove the line"),
    "newer": ('{"kind": "run", "format": 2}\n', "format 2, but this puresift reads format 1; update"),
    "kind": (HEAD + '{"kind": "pool"}\n', ':2: want an object with a "kind"'),
    "missing": (HEAD + '{"kind": "pools", "pool": 1}\n', ':2: a "pools" line needs "seconds", a number, got None'),
    "text": (HEAD + '{"kind": "pools", "pool": 1, "seconds": 1, "seen": "9"}\n', '"seen" must be a number or null'),
    "nan": (HEAD + '{"kind": "pools", "pool": 1, "seconds": NaN}\n', 'needs "seconds", a number, got None'),
    "edges": (HEAD + '{"kind": "losses", "edges": [2, 1], "seen": [1], "kept": [1]}\n', "edges must .* ascend"),
    "counts": (HEAD + '{"kind": "losses", "edges": [1, 2], "seen": [1, 2], "kept": [1]}\n', "2 edges want 1 counts"),
    "rank": (HEAD + '{"kind": "sample", "rank": "top", "id": 1, "seen": 1, "kept": 1}\n', '"most" or "least"'),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_run_folders_are_refused_in_words(name, tmp_path):
    content, words = BAD[name]
    (tmp_path / FILE).write_text(content)
    with pytest.raises(ValueError, match=words) as refused:
        report.write([tmp_path], tmp_path / "out")
    assert str(tmp_path) in str(refused.value) and not (tmp_path / "out").exists()


def test_a_line_that_a_kill_cut_short_is_left_out_with_a_warning(tmp_path):
    (tmp_path / FILE).write_text(
        HEAD + '{"kind": "evaluation", "pool": 1, "seconds": 1, "accuracy": 0.5}\n{"kind": "po'
    )
    with pytest.warns(UserWarning, match=":3: the last line was cut short"):
        assert (tmp_path / "out" / "accuracy.png") in report.write([tmp_path], tmp_path / "out")
