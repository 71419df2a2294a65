"""The commands of the studies: drawn from kept rows alone, wherever training stopped."""

from __future__ import annotations

import math
from pathlib import Path

import made_rows
import pytest

from paper_figures.claims import again, drafted, evidence, families, kept_study, rivals
from paper_figures.experiments import evidence_lists, kept_rows, kept_studies, studies
from paper_figures.experiments.rival_lists import STUDY
from paper_figures.extras import kept_runs

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def kept(tmp_path, monkeypatch):
    file = tmp_path / "kept.csv"
    monkeypatch.setattr(kept_rows, "file_of", lambda study: file)
    monkeypatch.setattr(
        kept_runs.runner, "train", lambda *_, **__: pytest.fail("nothing is trained")
    )
    return file


def places_of_claims() -> set[str]:
    """Settings whose runs a claim is judged by again."""
    entries = again.load()
    return {e.elsewhere.get(m, e.setting) for e in entries for m in (e.a, e.b) if m}


def test_every_method_and_setting_has_its_name():
    methods = {m for s in kept_studies.settings() for m in s.methods}
    plain = {m for m in methods if m.startswith("drafted, ")} | {"on-policy", "no clip", "uniform"}
    assert methods - plain <= set(kept_study.LABELS)
    judged = {(f.study, f.setting) for f in families.load()}
    shown_only = {s[:2] for s in kept_studies.settings() if s.name.endswith(", held back")}
    swept_only = {s[:2] for s in kept_studies.settings() if not s.seeds}
    of_claims = {(s[0], place) for s in kept_studies.settings() for place in places_of_claims()}
    of_claims &= {s[:2] for s in evidence_lists.BESIDE}
    settings = {s[:2] for s in kept_studies.settings()}
    assert judged | shown_only | swept_only | of_claims == settings


def test_pictures_table_and_verdicts_are_drawn_without_training(
    kept, tmp_path, capsys, monkeypatch
):
    save = kept_study.plots.save

    def save_one(figure, out, name):  # to lay out a large picture takes seconds
        if name == "rivals_completions":
            return save(figure, out, name)
        (out / f"{name}.png").touch()
        kept_study.plots.plt().close(figure)

    monkeypatch.setattr(kept_study.plots, "save", save_one)
    rows = made_rows.whole({"jackpot": 0.4}, noise=0.01)
    for row in [r for r in rows.values() if r.study == "objectives"]:
        kept_rows.append(kept, row)
    assert rivals.main(["--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "Jackpot " in out and "better" in out and "of commit 0123456" in out
    assert "rivals-completions (area against grpo, 0 of 3 seeds): nothing settled" in out
    pictures = {p.name for p in (tmp_path / "out").glob("*.png")}
    assert pictures == {f"rivals_{s}.png" for s in ("objectives", "completions", "allocation")}
    assert (tmp_path / "out" / "rivals.csv").read_text().count("\n") == 78


def test_no_rows_at_all_are_drawn_as_such(kept, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(
        kept_study.plots, "save", lambda figure, *_: kept_study.plots.plt().close(figure)
    )
    assert rivals.main(["--out", str(tmp_path / "out")]) == 0
    assert f"0 of {studies.planned(STUDY)} runs are kept" in capsys.readouterr().out
    assert not kept.exists()


def test_damaged_and_foreign_rows_are_an_error(kept, tmp_path, capsys, monkeypatch):
    row = next(iter(made_rows.whole().values()))
    kept_rows.append(kept, row._replace(key="f" * 16))
    assert rivals.main(["--out", str(tmp_path / "out")]) == 1
    assert "are of no run" in capsys.readouterr().err
    kept.write_text("nonsense")
    monkeypatch.setattr(kept_study.paths, "OUT", tmp_path / "default")
    assert rivals.main([]) == 1 and (tmp_path / "default").is_dir()
    assert "its columns are" in capsys.readouterr().err


def test_flags_that_contradict_each_other_are_refused(capsys):
    for flags in (["--train", "--quick"], ["--workers", "0"]):
        with pytest.raises(SystemExit):
            rivals.main(flags)
    assert "choose one" in capsys.readouterr().err


@pytest.mark.parametrize("study", kept_studies.STUDIES, ids=lambda s: s.name)
def test_the_kept_rows_of_the_repository_are_whole(study):
    """Each is of a run of the lists, with a summary that is its curve's."""
    least = {"rivals": 470, "drafted": 320, "evidence": 893, "smollm2": 30}[study.name]
    assert len(kept_runs.checked(study, kept_rows.file_of(study))) >= least


@pytest.mark.parametrize("study", kept_studies.STUDIES, ids=lambda s: s.name)
def test_judged_runs_have_the_rate_of_the_largest_area_in_their_sweep(study):
    rows = kept_rows.read(kept_rows.file_of(study))
    for setting in study.settings:
        own = [r for r in rows.values() if (r.study, r.setting) == setting[:2]]
        judged = {(r.method, r.rate) for r in own if r.stage == "judged"}
        swept: dict[str, dict[float, float]] = {}
        for r in own:
            if r.stage == "sweep":
                swept.setdefault(r.method, {})[r.rate] = r.area
        for method, rate in judged:
            areas = swept.get(method, {rate: 1.0} if not setting.rates_of else {})
            assert not areas or (rate in setting.rates and areas[rate] == max(areas.values()))
        assert len({m for m, _ in judged}) == len(judged)  # one rate for each method
        if setting.rates_of:
            source = {
                (r.method, r.rate)
                for r in rows.values()
                if (r.study, r.setting, r.stage) == (setting.study, setting.rates_of, "judged")
            }
            assert judged <= source


@pytest.mark.parametrize(
    "study", [s for s in kept_studies.STUDIES if not s.long], ids=lambda s: s.name
)
def test_a_quick_look_is_of_runs_that_can_be_kept_beside_each_other(study, tmp_path):
    """Settings that share runs, once these are cut short, are looked at once."""
    entries = kept_rows.distinct(studies.quick(study))
    assert len({kept_rows.key(e) for e in entries}) == len(entries)
    assert {e.method for e in entries} == {e.method for e in studies.quick(study)}
    file = tmp_path / "quick.csv"
    for entry in entries:
        kept_rows.append(file, made_rows.made(entry))
    assert len(kept_runs.checked(study, file, quick=True)) == len(entries)


@pytest.mark.parametrize("command", [drafted, evidence], ids=lambda c: c.STUDY.name)
def test_the_other_studies_have_the_same_command(command, kept, tmp_path, capsys, monkeypatch):
    drawn = []

    def save(figure, out, name):
        drawn.append(name)
        kept_study.plots.plt().close(figure)

    monkeypatch.setattr(kept_study.plots, "save", save)
    study = command.STUDY
    rows = [*made_rows.whole({"drafted, lam 1": 0.4}, 0.01, study).values()][:150]
    for row in rows:
        kept_rows.append(kept, row)
    assert command.main(["--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert len(rows) == min(150, studies.planned(study))
    assert f"{len(rows)} of {studies.planned(study)} runs are kept" in out
    assert "drafted, lam 1" in out and "could show" in out
    assert drawn[0] == study.name


def _of_document(page, marker):
    """Cells of each row of the page's table whose heading has the marker."""
    rows, found = [], False
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        if found and not line.startswith("|"):
            break
        found = found or (line.startswith("|") and marker in line)
        if found:
            rows.append([c.strip() for c in line.strip("|").split("|")])
    return rows[2:]


DOCUMENTED = {
    "rivals-separate": ("rivals.md", "| less that of TIS | p, Holm | could show |"),
    "rivals-not-distilled": ("rivals.md", "| actor not distilled | rate |"),
    "rivals-completions": ("rivals.md", "| less that of GRPO |"),
    **{f"evidence-length-{n}": ("evidence.md", f"| {n} sums | rate |") for n in (8, 24, 48, 96)},
    **{
        f"evidence-stale-{n}": ("evidence.md", f"| {n} updates of a rollout |")
        for n in (16, 32, 64, 128)
    },
    "smollm2": ("evidence.md", "| SmolLM2-135M | final pass rate |"),
    "evidence-chain-final": ("evidence.md", "| 10 to 96 sums | rate |"),
    "evidence-chain-forms": ("evidence.md", "| 24 sums, 2,048 ids | rate |"),
    "evidence-mask": ("evidence.md", "| trained actor, rate 8e-4 |"),
    "evidence-rivals": ("evidence.md", "| five rivals | rate |"),
    "evidence-z-forms": ("evidence.md", "| Z, 2,048 ids | mean Z, first step |"),
    "evidence-rivals-forms": ("evidence.md", "| five rivals, 2,048 ids | rate |"),
    "evidence-rivals-final": ("evidence.md", "| five rivals, 10 to 96 sums | rate |"),
    "evidence-descent": ("evidence.md", "| gradient descent, rate 0.5 |"),
    "evidence-causes": ("evidence.md", "| frozen actor, rate 8e-4 |"),
    **{
        f"drafted-{tokens}-{rate}{late}": ("evidence.md", f"| {name} {rate} | {metric} |")
        for tokens, rate, name in (
            (9, "4e-4", "rate"),
            (9, "8e-4", "rate"),
            (9, "1.6e-3", "rate"),
            (49, "4e-4", "49 tokens, rate"),
            (49, "8e-4", "49 tokens, rate"),
        )
        for late, metric in (("", "mean pass rate"), ("-late", "lowest late pass rate"))
    },
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_the_tables_of_the_documents_are_those_of_the_kept_rows(name):
    (family,) = (f for f in families.load() if f.id == name)
    (study,) = (s for s in kept_studies.STUDIES if name.startswith(s.name))
    rows = kept_rows.read(kept_rows.file_of(study))
    found = families.judge(family, rows.values())
    documented = [row for row in _of_document(*DOCUMENTED[name]) if row[-1] or row[-2]]
    assert len(documented) == len(found)
    for row, c in zip(documented, found, strict=True):
        assert c.effect is not None
        assert c.effect.signed() in row
        assert {f"{c.detectable:.3f}", c.verdict} <= set(row)


def test_the_seeds_that_were_held_back_are_shown_as_they_are_kept():
    rows = kept_rows.read(kept_rows.file_of(evidence_lists.STUDY)).values()
    area = {(r.setting, r.method, r.seed): r.area for r in rows if r.stage == "judged"}
    head = "| mean pass rate less that of TIS | 48 sums: 408 |"
    documented = _of_document("evidence.md", head)
    methods = [m for m in evidence_lists.STUDY.settings[0].methods if m != "tis"]
    assert len(documented) == len(methods)
    for cells, method in zip(documented, methods, strict=True):
        wanted = []
        for world in evidence_lists.WORLDS:
            apart = f"{world}, held back"
            less = [area[apart, method, s] - area[apart, "tis", s] for s in (408, 409)]
            eight = [area[world, method, s] - area[world, "tis", s] for s in range(400, 408)]
            wanted += [*less, sum(eight) / 8]
        assert [float(x) for x in cells[-9:]] == pytest.approx(wanted, abs=5.1e-4)


def test_a_picture_drawn_again_from_kept_rows_shows_their_differences():
    """Marks and intervals of a panel against means and t quantiles of the curves by hand."""
    study, name = drafted.STUDY, "drafted-9-4e-4"
    rows = kept_rows.read(kept_rows.file_of(study))
    whole = [f for f in kept_study.judged(study, rows.values()) if f[0].id == name]
    figure = kept_study.picture("drafted", whole)
    (ax,) = (a for a in figure.axes if a.axison)
    areas = {}
    for r in rows.values():
        if r.setting == whole[0][0].setting and r.stage == "judged":
            (x, y), n = zip(*r.curve, strict=True), len(r.curve)
            height = sum((x[i + 1] - x[i]) * (y[i] + y[i + 1]) / 2 for i in range(n - 1))
            areas[r.method, r.seed] = height / (x[-1] - x[0])
    for i, method in enumerate(whole[0][0].methods):
        d = [areas[method, s] - areas["on-policy", s] for s in range(300, 308)]
        mean = sum(d) / 8
        half = 2.364624 * math.sqrt(sum((v - mean) ** 2 for v in d) / 7 / 8)  # t of 7 degrees
        ticks, interval, mark = (
            line.get_xdata()
            for line in ax.lines[1:]  # after the line of no difference
            if i - 0.01 <= -line.get_ydata()[0] < i + 0.99
        )
        assert sorted(ticks) == pytest.approx(sorted(d), abs=1e-5)
        assert [*interval] == pytest.approx([mean - half, mean + half], abs=1e-5)
        assert [*mark] == pytest.approx([mean], abs=1e-5)
    kept_study.plots.plt().close(figure)
