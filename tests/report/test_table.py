"""The table and the verdict, plain and rich."""

from __future__ import annotations

import io

import pytest

from lowerbound.report import render, show
from tests.report.fake import posterior


def test_plain_text_has_everything_aligned():
    text = render(posterior(), terminal=False)
    lines = text.splitlines()
    assert lines[0] == "Posterior of eight_schools (dense, score_regression)"
    assert [line.split() for line in lines[2:6]] == [
        ["mean", "sd", "hdi_3%", "hdi_97%"],
        ["mu", "4.41", "3.31", "-1.81", "10.62"],
        ["theta[0]", "24123", "1210", "21900", "26400"],
        ["eps", "0.001234", "1.23e-05", "0.00121", "0.00126"],
    ]
    assert len({len(line) for line in lines[2:6]}) == 1
    assert "TRUSTED: q is close to the posterior." in lines
    assert "  - Pareto k is 0.31, below 0.7." in lines
    assert "Not checked: modes that no start found." in lines
    assert lines[-1] == "Time: compile 0.91 s, fit 0.20 s"
    assert "\x1b" not in text


def test_not_trusted_says_what_to_do():
    p = posterior("NOT_TRUSTED", sentence="q misses mass.", next_step="Use family='low_rank'.")
    text = render(p, terminal=False)
    assert "NOT_TRUSTED: q misses mass." in text
    assert "  Next: Use family='low_rank'." in text


def test_long_tables_are_cut_and_say_so():
    rows = [(f"theta[{i}]", float(i), 1.0, -1.0, 1.0) for i in range(1234)]
    text = render(posterior(rows=rows), terminal=False, max_rows=5)
    assert "theta[4]" in text and "theta[5]" not in text
    assert "and 1,229 more of 1,234" in text


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_shown(bad):
    assert str(bad) in render(posterior(rows=[("x", bad, bad, bad, bad)]), terminal=False)


def test_a_constant_parameter():
    assert "0.3333" in render(posterior(rows=[("x", 1 / 3, 0.0, 1 / 3, 1 / 3)]), terminal=False)


def test_rich_has_the_same_words():
    from rich.console import Console

    stream = io.StringIO()
    p = posterior("CORRECTED", reasons=("a [bracket] is not markup",))
    Console(file=stream, width=100, force_terminal=True, color_system="standard").print(render(p, terminal=True))
    text = stream.getvalue()
    assert "\x1b[" in text
    for word in ("Posterior of eight_schools", "theta[0]", "24123", "CORRECTED", "a [bracket] is not markup", "Time:"):
        assert word in text


def test_show_is_plain_where_there_is_no_terminal():
    stream = io.StringIO()
    show(posterior(), stream)
    assert stream.getvalue() == render(posterior(), terminal=False) + "\n"
