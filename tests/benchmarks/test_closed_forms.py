"""The race's problems survive the file that both sides read, and have the sizes that the page states."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.closed_forms.problems import PROBLEMS, Problem, corpus
from benchmarks.closed_forms.run import main, measured


@pytest.mark.parametrize("name", PROBLEMS)
def test_both_sides_read_what_was_made(name, tmp_path):
    made = PROBLEMS[name]()
    made.save(tmp_path / "problem.npz")
    read = Problem.load(tmp_path / "problem.npz")
    assert (read.model, read.sweeps) == (made.model, made.sweeps)
    for mine, theirs in ((made.data, read.data), (made.start, read.start)):
        assert mine.keys() == theirs.keys()
        assert all(type(theirs[k]) is int or theirs[k].shape for k in theirs)
        assert all(np.array_equal(mine[k], theirs[k]) for k in mine)


def test_topics_are_of_the_stated_size():
    data = PROBLEMS["lda"]().data
    assert len(data["doc"]) == len(data["word"]) == 53_761
    assert (len(np.unique(data["doc"])), data["V"]) == (395, 1_000)
    assert data["word"].min() >= 0 and data["word"].max() < 1_000


def test_a_corpus_keeps_its_first_documents_and_most_frequent_words(tmp_path):
    import scipy.sparse

    counts = scipy.sparse.csr_matrix(np.array([[3, 0, 1], [0, 1, 2], [9, 9, 9]]))
    path = tmp_path / "c.npz"
    np.savez(path, data=counts.data, indices=counts.indices, indptr=counts.indptr, shape=np.array(counts.shape))
    data = corpus(path, documents=2, words=2, k=3).data
    assert np.array_equal(np.sort(data["doc"] * 2 + data["word"]), [0, 0, 0, 1, 3, 3])


def test_seconds_are_those_of_the_first_sweep_that_is_there():
    side = {
        "phases": {"imports": (1.0, 1.5)},
        "bounds": [-9.0, -5.0, -4.0],
        "counts": [2, 4, 6],
        "sweeps": [(2.0, 3.0), (3.0, 4.0), (4.0, 6.0)],
    }
    out = measured(side, -5.5)
    assert (out["sweeps_to_bound"], out["cpu_to_bound"], out["wall_to_bound"]) == (4, 3.0, 4.0)
    assert (out["sweep_cpu"], out["sweep_wall"], out["bound"]) == (0.5, 0.75, -4.0)


def test_without_bayespy_it_says_so_before_it_measures(capsys):
    with pytest.raises(SystemExit) as e:
        main(["regression", "--bayespy", "/nowhere/python"])
    assert e.value.code == 2
    assert "BayesPy is not there" in capsys.readouterr().err
