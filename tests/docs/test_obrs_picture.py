"""The numbers of docs/obrs_picture.md are the core's: its mathematics in node, its page in a
browser. Both tests are skipped where the program is missing; nothing else needs either."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optional import not_none

import jackpot
from jackpot import drafting

ROOT = Path(__file__).parents[2]
FILES = ROOT / "docs/site/static"
PAGE = (ROOT / "docs/obrs_picture.md").read_text(encoding="utf-8")
TOLERANCE = 1e-12
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
NODE = shutil.which("node")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)

# What `obrs` of obrs.js gives for cases [[p, q, lam], ...]; infinite numbers as text.
IN_NODE = """
const obrs = require(process.argv[1]);
const cases = JSON.parse(require("fs").readFileSync(0, "utf8"));
const plain = (key, x) => (typeof x === "number" && !Number.isFinite(x) ? String(x) : x);
process.stdout.write(JSON.stringify(cases.map(([p, q, lam]) => obrs.picture(p, q, lam)), plain));
"""

# Moves the controls as a reader does. Writes what the page shows after each step into the page.
IN_BROWSER = """
const seen = [];
const find = (selector) => document.querySelector("#obrs-picture " + selector);
const all = (selector) => [...document.querySelectorAll("#obrs-picture " + selector)];
const heights = (selector) => all(selector).map((bar) => Number(bar.getAttribute("height")));
function look(name) {
  const number = (cell) => [cell.dataset.value, cell.textContent];
  seen.push({
    name,
    lam: find("#obrs-lam-number").dataset.value,
    tiles: Object.fromEntries(all("dd").map((dd) => [dd.id.replace("obrs-", ""), number(dd)])),
    rows: all("tbody tr").map((row) => [...row.querySelectorAll("td")].map(number)),
    status: find("[role=status]").textContent,
    bars: {
      p: heights("#obrs-proposal rect.target"),
      accepted: heights("#obrs-proposal rect.accepted"),
      q_tilde: heights("#obrs-accepted rect.accepted"),
    },
    unnamed: all("input").filter((x) => !x.labels.length && !x.ariaLabel).length,
    alerts: all("[role=alert]").map((p) => p.textContent),
  });
}
function set(id, value) {
  find(id).value = value;
  find(id).dispatchEvent(new Event("input"));
  look(`${id} ${value}`);
}
look("address");
for (const button of all("button")) {
  button.click();
  look(button.textContent);
}
set("#obrs-sharpness", 3);
set("#obrs-mismatch", 2);
set("#obrs-lam", 0.5);
set("#obrs-lam-number", 1);
set("#obrs-lam-number", 1.75);
set("#obrs-lam-number", -1);
set("#obrs-p-3", 0.5);
set("#obrs-q-1", 0);
const result = document.createElement("script");
result.type = "application/json";
result.id = "seen";
result.textContent = JSON.stringify(seen);
document.body.append(result);
"""


def core(p: Any, q: Any, lam: float) -> dict[str, Any]:
    """The same numbers from the core; None where it has none."""
    with np.errstate(divide="ignore"):
        log_p, log_q = np.log(np.asarray(p, float)), np.log(np.asarray(q, float))
    shared = bool(np.any(np.isfinite(log_p) & np.isfinite(log_q)))
    log_q_tilde = jackpot.post_rejection(log_p, log_q, lam) if shared else None
    law = drafting.draft_law(log_p, log_q, lam=lam) if lam <= 1 else None
    return {
        "a": jackpot.accept_prob(log_p, log_q, lam),
        "z": float(jackpot.acceptance_rate(log_p, log_q, lam)),
        "q_tilde": None if log_q_tilde is None else np.exp(log_q_tilde),
        "s": None if law is None else np.exp(law.log_s),
        "inverse_mu": None if law is None else 1 / float(law.mu),
        "tau": None if law is None else float(law.tau),
        "kl_p_q": float(jackpot.kl_p_q(log_p, log_q)),
        "kl_p_q_tilde": None if log_q_tilde is None else float(jackpot.kl_p_q(log_p, log_q_tilde)),
        "kl_p_s": None if law is None else float(jackpot.kl_p_q(log_p, law.log_s)),
    }


def agree(found: dict[str, Any], p: Any, q: Any, lam: float, names: set[str]) -> None:
    expected = core(p, q, lam)
    assert found.keys() == names and names <= expected.keys()
    for name in names:
        want, got = expected[name], found[name]
        message = f"{name} of p = {p}, q = {q}, lam = {lam}"
        assert (want is None) == (got is None), message
        if want is not None:
            np.testing.assert_allclose(
                np.asarray(got, float), want, rtol=TOLERANCE, atol=TOLERANCE, err_msg=message
            )


def random_cases(n: int) -> list[tuple[list[float], list[float], float]]:
    """Small integer weights, so with zeros and ties; lam on a ratio p/q, 1, or anywhere."""
    rng = np.random.default_rng(0)
    cases: list[tuple[list[float], list[float], float]] = []
    while len(cases) < n:
        v = int(rng.integers(1, 10))
        p, q = rng.integers(0, 5, (2, v))
        if not p.any() or not q.any():
            continue
        pairs = [(int(a * q.sum()), int(b * p.sum())) for a, b in zip(p, q, strict=True)]
        ratios = sorted({Fraction(a, b) for a, b in pairs if b})
        # At the least ratio nothing is rejected. Rounding then decides whether mu is infinite.
        usable = [r for r in ratios if r > ratios[0] or not np.any((q == 0) & (p > 0))]
        lams = [float(r) for r in usable if r > 0] + [1.0, float(np.exp(rng.uniform(-3, 1)))]
        cases.append(((p / p.sum()).tolist(), (q / q.sum()).tolist(), float(rng.choice(lams))))
    return cases


@pytest.mark.skipif(not NODE, reason="node is missing; it runs the page's mathematics")
def test_the_mathematics_of_the_page_is_the_cores():
    near = np.random.default_rng(1).dirichlet(np.ones(6))
    moved = near * (1 + 1e-7 * np.arange(6))
    cases = random_cases(50)
    cases += [(near.tolist(), (moved / moved.sum()).tolist(), lam) for lam in (0.9999999, 1.0)]
    cases += [([1.0, 0.0], [0.0, 1.0], 0.5), ([0.5, 0.5, 0.0], [0.5, 0.5, 0.0], 0.5)]
    done = subprocess.run(
        [not_none(NODE), "-e", IN_NODE, str(FILES / "obrs.js")],
        input=json.dumps(cases),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    results = json.loads(done.stdout)
    assert len(results) == len(cases)
    zeros = [0.0 in p or 0.0 in q for p, q, _ in cases]
    assert 10 < sum(zeros) < len(cases) - 10
    assert sum(lam > 1 for *_, lam in cases) > 5 and sum(lam < 1 for *_, lam in cases) > 15
    for (p, q, lam), found in zip(cases, results, strict=True):
        draft = found.pop("draft")
        found["s"] = draft and draft["s"]
        found["tau"] = draft and draft["tau"]
        found["inverse_mu"] = draft and 1 / float(draft["mu"])
        agree(found, p, q, lam, set(core(p, q, lam)))


def in_browser(folder: Path, address: str) -> list[dict[str, Any]]:
    """What the page shows at `address`, the part after '?', and after each step of IN_BROWSER."""
    page = (FILES / "obrs_picture.html").read_text(encoding="utf-8")
    page = page.replace("<head>", f'<head><base href="{FILES.as_uri()}/">')
    (folder / "page.html").write_text(page.replace("</body>", f"<script>{IN_BROWSER}</script>"))
    words = ["--headless", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    words += [f"--user-data-dir={folder}/profile", "--host-resolver-rules=MAP * ~NOTFOUND"]
    if os.geteuid() == 0:  # Chromium refuses its sandbox to root
        words.append("--no-sandbox")
    done = subprocess.run(
        [not_none(BROWSER), *words, "--dump-dom", f"{(folder / 'page.html').as_uri()}?{address}"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    found = re.search(
        r'<script type="application/json" id="seen">(.*?)</script>', done.stdout, re.S
    )
    assert found, f"the page raised an error\n{done.stderr[-2000:]}"
    return json.loads(found.group(1))


def number(cell: list[str]) -> float | None:
    """The value of a cell; the text that is shown is this value, rounded to four places."""
    value, text = cell
    if value == "null":
        assert text == "none"
        return None
    x = float(value)
    if math.isinf(x):
        assert text == "∞"
    else:
        assert re.fullmatch(r"\d+\.\d{4}", text)
        assert abs(float(text) - x) <= 0.5001e-4
    return x


@pytest.mark.skipif(not BROWSER, reason=f"no browser: none of {', '.join(BROWSERS)} is there")
def test_the_page_shows_the_numbers_of_the_core(tmp_path):
    """After the address, after each example, and after each control is moved."""
    seen = in_browser(tmp_path, "p=4,2,1,1&q=1,1,1,1&lam=0.625")
    steps = {step["name"]: step for step in seen}
    for step in seen:
        p, q, a, q_tilde, s = zip(
            *[[number(cell) for cell in row] for row in step["rows"]], strict=True
        )
        tiles = {name: number(cell) for name, cell in step["tiles"].items()}
        mu = tiles.pop("mu")
        found = {"a": a, "q_tilde": q_tilde, "s": s, **tiles, "inverse_mu": mu and 1 / mu}
        found = {k: None if v in (None, (None,) * len(p)) else v for k, v in found.items()}
        assert sum(p) == pytest.approx(1) and sum(q) == pytest.approx(1)
        agree(found, p, q, float(step["lam"]), set(core(p, q, 0.5)) - {"tau"})
        scale = max(step["bars"]["p"]) / max(p)  # pixels for a probability of 1
        drawn = {"p": p, "accepted": np.multiply(q, a), "q_tilde": q_tilde}
        for name, values in drawn.items():
            heights = [] if values[0] is None else np.multiply(values, scale)
            np.testing.assert_allclose(step["bars"][name], heights, atol=1e-9, err_msg=name)
        assert (step["unnamed"], step["alerts"]) == (0, []) and str(step["lam"])[:4] in step[
            "status"
        ]
    lams = [float(steps[f"#obrs-lam{which}"]["lam"]) for which in (" 0.5", "-number 1.75")]
    assert lams == [0.5, 1.75]
    assert steps["#obrs-lam-number -1"]["lam"] == "1.75"  # no threshold, so the last one stays
    assert steps["address"]["rows"] == steps["Four tokens of the theory page"]["rows"]
    assert float(steps["#obrs-p-3 0.5"]["rows"][2][0][0]) == 0.5
    assert steps["#obrs-mismatch 2"]["rows"] != steps["#obrs-sharpness 3"]["rows"]
    assert steps["p = q"]["tiles"]["kl_p_q"][1] == "0.0000"
    assert steps["A token that q never proposes"]["tiles"]["kl_p_q"][1] == "∞"
    assert steps["No shared token"]["tiles"]["kl_p_q_tilde"][1] == "none"


def test_the_example_of_the_page_is_that_of_the_theory():
    result = core([0.5, 0.25, 0.125, 0.125], [0.25] * 4, 0.625)
    kl = re.findall(r"KL falls from ([\d.]+) to ([\d.]+) nats", PAGE)
    assert [float(x) for x in kl[0]] == [round(result[k], 4) for k in ("kl_p_q", "kl_p_q_tilde")]
    np.testing.assert_allclose(result["a"], [1, 1, 0.8, 0.8])
    assert result["z"] == pytest.approx(0.9) and "a = (1, 1, 4/5, 4/5), Z = 9/10" in PAGE


def test_the_page_loads_its_own_files_and_nothing_else():
    """Both the page of the site and the one that stands alone have all of them."""
    alone = (FILES / "obrs_picture.html").read_text(encoding="utf-8")
    loaded = set(re.findall(r'(?:src|href)="([^"]+)"', alone))
    own = {path.name for path in FILES.iterdir()} - {"obrs_picture.html"}
    files = own - {"site.css"}  # of the whole site
    assert loaded == files
    configuration = (ROOT / "docs/site/conf.py").read_text(encoding="utf-8")
    assert all(f'"{name}"' in configuration for name in files)
    assert '<div id="obrs-picture">' in PAGE
    code = "".join(path.read_text(encoding="utf-8") for path in FILES.iterdir())
    assert set(re.findall(r"https?://[^\"'\s]+", code)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"\bfetch\(|XMLHttpRequest|@import|\bimport\b|url\((?!#)", code)
