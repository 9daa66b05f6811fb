"""The report: one page without a network, whose sentence on trust follows from what was found."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from tiny import THETA, tiny_ensemble, tiny_posterior, tiny_recording

from sbi_circuits.ensemble import Ensemble
from sbi_circuits.errors import InferenceError
from sbi_circuits.report import write_report
from sbi_circuits.report_page import Verdict, page, trust_sentence

VOID = {"meta", "img", "br"}
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page(HTMLParser):
    """Checks that every element is closed in its turn, and keeps what the page would load, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.text: list[str] = []
        self.rows = 0
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.rows += tag == "tr"
        self.loaded += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    return tiny_ensemble()


def none_verified(ensemble: Ensemble) -> Ensemble:
    nothing = np.zeros(len(ensemble.theta), dtype=bool)
    return replace(ensemble, judgement=replace(ensemble.judgement, verified=nothing))


@pytest.fixture(scope="module")
def written(ensemble: Ensemble, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    found = write_report(ensemble, folder, posterior=tiny_posterior(), recording=tiny_recording(THETA, 20.0, 0),
                         engine="tiny", notes={"observation": "<b>well</b> & more"})  # fmt: skip
    assert {path.name for path in found.paths} == {path.name for path in folder.iterdir()}
    return folder / "report.html"


def test_the_page_is_whole_small_and_loads_nothing(written: Path) -> None:
    text = written.read_text(encoding="utf-8")
    found = Page(text)
    assert len(text) < 5e6
    assert len(found.loaded) >= 6 and all(source.startswith("data:image/png;base64,") for source in found.loaded)
    assert not re.search(r"https?:|@import|url\(|<script", text)
    assert "<b>well" not in text and "<b>well</b> & more" in "".join(found.text)


def test_every_verified_member_is_listed(ensemble: Ensemble) -> None:
    members, features = int(ensemble.verified.sum()), len(ensemble.feature_set.names)
    reasons = min(len(ensemble.rejections()), 12)
    heads = 2 + (reasons > 0)
    assert Page(page(ensemble, [])).rows == members + features + reasons + heads
    # Negative control: where none is verified ten draws stand in, and the page says so.
    without = page(none_verified(ensemble), [])
    assert "none is verified" in without and 'class="trust doubtful"' in without
    assert 'class="trust doubtful"' not in page(ensemble, [])


def test_trust_follows_from_yield_reach_and_calibration(ensemble: Ensemble) -> None:
    n, m = int(ensemble.verified.sum()), len(ensemble.theta)
    sentence = trust_sentence(ensemble)
    assert sentence.startswith(f"{n} of {m} drawn configurations reproduced the recording")
    assert "like the simulations" in sentence and sentence.count(".") == 1
    outside = replace(ensemble, trust="observation is outside the simulations: isi.mean")
    assert "unlike any simulation" in trust_sentence(outside) and "one by one" in trust_sentence(outside)
    assert "no configuration is confirmed" in trust_sentence(none_verified(ensemble))
    few = np.zeros(len(ensemble.theta), dtype=bool)
    few[np.flatnonzero(ensemble.verified)[0]] = True
    rare = replace(ensemble, judgement=replace(ensemble.judgement, verified=few), theta=ensemble.theta)
    assert (rare.yield_ < 0.05) == ("not the marginals" in trust_sentence(rare))
    good, narrow = Verdict(400, True, "", ()), Verdict(400, False, "too narrow", ())
    assert "calibrated as far as 400" in trust_sentence(ensemble, good)
    assert "is too narrow on held-out" in trust_sentence(ensemble, narrow)


def test_a_calibration_is_read_back_or_refused_in_one_line(ensemble: Ensemble, tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(json.dumps({"rows": 90, "passes": False, "direction": "too wide", "findings": ["x < y"]}))
    assert Verdict.load(file) == Verdict(90, False, "too wide", ("x < y",))
    assert "x &lt; y" in page(ensemble, [], calibration=Verdict.load(file))
    file.write_text("{}")
    with pytest.raises(InferenceError, match="is no calibration: give the calibration.json of `calibrate`"):
        Verdict.load(file)
    with pytest.raises(InferenceError, match="cannot read"):
        Verdict.load(tmp_path / "nothing.json")


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome here")
def test_a_browser_shows_and_prints_it(written: Path, tmp_path: Path) -> None:
    assert BROWSER is not None
    quiet = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu"]
    pdf = tmp_path / "page.pdf"
    subprocess.run([*quiet, f"--print-to-pdf={pdf}", written.as_uri()], check=True, capture_output=True, timeout=120)
    assert pdf.read_bytes()[:4] == b"%PDF" and pdf.stat().st_size > 50_000
    # Where every image is drawn, the width of the page is that of its text; the script is the test's own.
    probe = tmp_path / "probe.html"
    script = (
        "<script>onload = () => document.title = [...document.images].every(i => i.naturalWidth > 100)"
        " + ' ' + (document.documentElement.scrollWidth <= innerWidth)</script>"
    )
    probe.write_text(written.read_text(encoding="utf-8").replace("</body>", f"{script}</body>"), encoding="utf-8")
    dumped = subprocess.run([*quiet, "--dump-dom", "--window-size=1000,800", probe.as_uri()],
                            check=True, capture_output=True, text=True, timeout=120)  # fmt: skip
    assert "<title>true true</title>" in dumped.stdout
