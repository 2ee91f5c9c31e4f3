"""The study ``wfm`` at a size of seconds: its files, its numbers, its verdicts, and interruptions."""

import numpy as np
import pytest
import scipy.stats
from study_helpers import Finished, Page

import flatcore as fc
from flatcore.report.figures import figure
from flatcore.studies import run_study, wfm_figures, wfm_words
from flatcore.studies import wfm as study
from flatcore.studies.statistics import Comparison
from flatcore.studies.wfm_experiments import BINARY, BP, EXPERIMENTS, FLIPS, LAL

TINY = study.Size(
    seeds=3,
    samples=10,
    tree=(3, 31, 0.5),
    binary=(3, 51, 0.3),
    entropy=(101, 0.3),
    loads=((0.2, 0.9), (0.5, 4.0)),
    capacity=(51, 7),
    parity=(3, 21, 0.2),
    digits=(3, 160),
    epochs=30,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(study.SIZES, "small", TINY)
        heard = []
        path = tmp_path_factory.mktemp("wfm") / "out"
        result = run_study("wfm", path, progress=lambda what, fraction: heard.append((what, fraction)))
    return Finished(path, result, heard)


def test_the_study_leaves_its_files_and_no_others(finished):
    names = {str(p.relative_to(finished.path)) for p in finished.path.rglob("*") if p.is_file()}
    pictures = {"energy", "flips", "entropy", "hessian", "capacity", "parity", "gamma", "digits"}
    checkpoints = {f"checkpoints/{e.name}-{seed}.npz" for e in EXPERIMENTS for seed in range(3)}
    files = {"study.json", "report.html", "results.json", "history.csv"}
    assert names == files | checkpoints | {f"figures/{name}.svg" for name in pictures}
    page = Page(finished.text("report.html"))
    assert set(page.figures) == pictures
    assert not [r for r in page.references if not r.startswith("#")]
    for name in pictures:
        assert page.captions[name].split() == " ".join(finished.lines(name)).split()
    fractions = [fraction for _, fraction in finished.heard]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0


def test_what_was_measured_can_be_measured_again(finished):
    """A checkpoint's errors and local energies are those of the solver called by hand."""
    with np.load(finished.path / "checkpoints/binary-1.npz") as measured:
        model = fc.wfm.Committee(153, 3)
        patterns = fc.wfm.random_patterns(model, 46, seed=1)
        found = fc.wfm.focusing_bp(model, patterns, seed=1)
        energy = fc.wfm.local_energy(model, found.weights, patterns, scale=FLIPS, samples=10, seed=1)
        place = list(BINARY).index(BP)
        assert measured["errors"][place] == found.errors == fc.wfm.errors(model, found.weights, patterns)
        np.testing.assert_array_equal(measured["energy"][place], energy.values)


def test_verdicts_follow_from_the_numbers(finished):
    """Paired t-tests at 95 % over the seeds that both solve, by SciPy."""
    rows = finished.results()["measured"]["binary"]
    lal, bp = list(BINARY).index(LAL), list(BINARY).index(BP)
    both = [row["energy"] for row in rows if row["errors"][lal] == 0 and row["errors"][bp] == 0]
    at = int(np.argmin(np.abs(FLIPS - 0.1)))
    test = scipy.stats.ttest_rel([e[lal][at] for e in both], [e[bp][at] for e in both])
    expected = "undecided" if test.pvalue > 0.05 else "yes" if test.statistic > 0 else "no, the opposite"
    assert finished.results()["verdicts"]["focusing BP is flatter than least action (binary tree)"] == expected
    assert dict(line.rsplit(": ", 1) for line in finished.result.lines) == finished.results()["verdicts"]


def row(errors, energy):
    return {"errors": np.array(errors), "energy": np.array(energy, dtype=float)}


def test_solutions_with_errors_count_nowhere():
    rows = [row([0, 0], [[1.0], [0.25]]), row([3, 0], [[9.0], [0.5]]), row([0, 0], [[2.0], [0.5]])]
    gap = wfm_words.difference(rows, 0, 1, "energy", 0)
    np.testing.assert_array_equal(gap.differences, [0.75, 1.5])
    assert wfm_words.difference([rows[1]], 0, 1, "energy", 0).text() == "undefined"
    assert wfm_words.mean_of(np.array([np.nan])) == "undefined"
    assert Comparison(np.array([])).sign == 0


@pytest.mark.parametrize(
    ("signs", "words"),
    [((1, 1), "yes"), ((1, 0), "for 1 of 2"), ((1, -1), "for 1 of 2, the opposite for 1"), ((), "undecided")],
)
def test_claims_about_all_others(signs, words):
    assert wfm_words._all(signs) == words


def test_loads_beyond_capacity_are_not_solved(finished):
    """Nine continuous units of seven inputs cannot learn four random patterns a weight; what is left is counted."""
    for seed in range(3):
        with np.load(finished.path / f"checkpoints/capacity-{seed}.npz") as measured:
            assert (measured["tree"][:, 1] > 0).all()
            assert (measured["perceptron"][:, 1] > 0).all()
    assert "largest load at which most seeds are solved" in " ".join(finished.lines("capacity"))


def test_an_interrupted_study_ends_with_the_same_files(finished, tmp_path, monkeypatch):
    monkeypatch.setitem(study.SIZES, "small", TINY)

    def stop(what, fraction):
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study("wfm", tmp_path / "out", progress=stop)
    assert not (tmp_path / "out/report.html").exists()
    kept = len(list((tmp_path / "out/checkpoints").iterdir()))
    assert 0 < kept < 3 * len(EXPERIMENTS)
    run_study("wfm", tmp_path / "out", resume=True)
    for name in ("results.json", "history.csv", "report.html"):
        assert (tmp_path / "out" / name).read_text("utf-8") == finished.text(name)


def test_studies_with_different_seeds_share_none():
    for size in study.SIZES.values():
        first, second = study.seeds_of(0, size), study.seeds_of(1, size)
        assert len(first) == len(second) == size.seeds
        assert not set(first) & set(second)


def test_curves_keep_the_points_that_some_seeds_have():
    rows = np.array([[1.0, np.nan, 3.0], [2.0, np.nan, np.nan]])
    with figure("test", 1, 1, (3.0, 2.0)) as (_, axes):
        wfm_figures._band(axes[0, 0], np.arange(3.0), rows, "solver", "#000000")
        (line,) = axes[0, 0].lines
        np.testing.assert_array_equal(line.get_xydata(), [[0.0, 1.5], [2.0, 3.0]])


def test_sizes(tmp_path):
    with pytest.raises(ValueError, match="size is 'huge'; expected one of 'small', 'full'"):
        run_study("wfm", tmp_path / "a", size="huge")
    with pytest.raises(ValueError, match="size is 'full'; the study digits comes in one size"):
        run_study("digits", tmp_path / "b", size="full")
    with pytest.raises(ValueError, match="seed is -1; expected at least 0"):
        run_study("wfm", tmp_path / "c", seed=-1)
    assert not list(tmp_path.iterdir())
