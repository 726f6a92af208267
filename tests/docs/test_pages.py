"""The pages say what is so: their code runs, their links lead somewhere, and every public name is on one of them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import lowerbound as lb
from lowerbound.cli import app
from tests.docs.outputs import PAIR, agree, outputs

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [README, *DOCS]
#: A fence, what follows its language, and what is inside; blocks inside lists would need their indent taken off.
FENCE = re.compile(r"^```([\w-]*) *([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]+\]\(([^)\s]+)\)")


class Block(NamedTuple):
    """A fenced block: its language, what stands beside it, its text, and its first line in the file."""

    language: str
    info: str
    text: str
    line: int


def blocks(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [Block(m[1], m[2], m[3], text.count("\n", 0, m.start()) + 2) for m in FENCE.finditer(text)]


def code(page: Path) -> list[Block]:
    return [b for b in blocks(page) if b.language == "python" and b.info != "no-run"]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def outside_fences(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


# -- the code ------------------------------------------------------------------------------------------


#: Pages that fit many data sets or train networks; what they say is tested by default elsewhere (tests/calibration,
#: tests/closed_forms, tests/learning, tests/exact).
LONG = (
    "docs/calibration.md",
    "docs/learn/amortizing.md",
    "docs/learning_the_model.md",
    "docs/methods/black_box_vi.md",
    "docs/methods/from_gaussian.md",
    "docs/methods/memoized_vi.md",
    "docs/methods/objectives.md",
    "docs/updating.md",
)


def pages(found: list[Path]) -> list[Any]:
    """As parameters, the long ones with the slow tests."""
    return [pytest.param(p, marks=pytest.mark.slow) if name(p) in LONG else p for p in found]


LESSONS = sorted((ROOT / "docs/learn").glob("*.md"))
TRANSLATED = sorted((ROOT / "docs/learn").glob("*/*.md"))


@pytest.mark.parametrize("page", pages(LESSONS), ids=name)
def test_lessons_show_what_their_code_prints(page):
    shown = 0
    for found, printed in outputs(page.read_text(encoding="utf-8"), str(page)):
        assert bool(printed) == (found[2] is not None), f"a block of code and its output: {found[1]}"
        if found[2] is not None:
            assert agree(found[2], printed), f"the page says\n{found[2]}and the code\n{printed}"
            shown += 1
    assert shown


@pytest.mark.parametrize("page", TRANSLATED, ids=name)
def test_translated_lessons_have_the_code_and_the_numbers_of_the_original(page):
    original = page.parents[1] / page.name
    assert blocks_of_code_and_output(page) == blocks_of_code_and_output(original)
    assert {p.name for p in page.parent.glob("*.md")} == {p.name for p in LESSONS}


def blocks_of_code_and_output(page: Path) -> list[tuple[str, str | None]]:
    return [(m[1], m[2]) for m in PAIR.finditer(page.read_text(encoding="utf-8"))]


def test_outputs_agree_as_far_as_they_are_shown():
    assert agree("ELBO -1.23 TRUSTED", "ELBO  -1.24 TRUSTED") and agree("[0.5 2.]", "[0.49 2.03]")
    assert not agree("ELBO -1.23", "ELBO -1.35") and not agree("a 1.0", "b 1.0") and not agree("1.0", "1.0 2.0")


@pytest.mark.parametrize(
    "page",
    pages([p for p in PAGES if code(p) and p not in LESSONS + TRANSLATED]),
    ids=name,
)
def test_code_runs(page, tmp_path, monkeypatch):
    """Every block of a page, in order, in one namespace. One that begins with ``# name.py`` is that file too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    namespace: dict[str, object] = {"__name__": "__main__"}
    try:
        for block in code(page):
            if file := re.match(r"# (\w+\.py)\n", block.text):
                (tmp_path / file[1]).write_text(block.text, encoding="utf-8")
            # Blank lines before it, so that a traceback has the line of the page.
            exec(compile("\n" * (block.line - 1) + block.text, str(page), "exec"), namespace)
    finally:
        for module in set(sys.modules) - before:
            if str(getattr(sys.modules[module], "__file__", None)).startswith(str(tmp_path)):
                del sys.modules[module]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_blocks_are_written_so_that_they_are_found(page):
    found = blocks(page)
    assert page.read_text(encoding="utf-8").count("```") == 2 * len(found), "a fence that is indented, or not closed"
    assert {b.language for b in found} <= {"python", "console", "text"}
    for block in found:
        assert block.info in ("", "no-run"), f"line {block.line}: {block.info!r} after the language"
        if block.info == "no-run":
            above = page.read_text(encoding="utf-8").splitlines()[: block.line - 2]
            reason = " ".join(above[-3:]).lower()
            assert "not run" in reason, f"line {block.line}: say in the text above why it is not run"


def run_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    path = os.pathsep.join(filter(None, [str(Path(lb.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-m", "lowerbound", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_of_the_readme_runs(tmp_path):
    [model] = [b.text for b in code(README) if b.text.startswith("# line.py")]
    (tmp_path / "line.py").write_text(model, encoding="utf-8")
    x = np.linspace(-1, 1, 30)
    y = 1 + 2 * x + 0.5 * np.random.default_rng(0).normal(size=30)
    np.savetxt(tmp_path / "line.csv", np.stack([x, y], 1), delimiter=",", header="x,y", comments="")
    [line] = [n for b in blocks(README) if b.language == "console" for n in b.text.splitlines() if "line.py" in n]
    command, *arguments = shlex.split(line)
    assert command == "lowerbound"
    done = run_command(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert lb.load(tmp_path / "line.lb").sites == ("intercept", "slope", "sigma")


def test_the_result_in_the_readme_is_that_of_the_demo():
    # The same parameters, the same verdict, and means within a Monte Carlo error: digits differ between machines.
    [shown] = [b.text for b in blocks(README) if b.text.startswith("Posterior of eight_schools")]
    demo = run_command("fit", "eight-schools", cwd=ROOT)
    assert demo.returncode in (0, 3), demo.stderr

    def read(text: str) -> tuple[dict[str, list[float]], str]:
        title, _, head, *lines = text.splitlines()
        end = lines.index("")
        rows = {n: [float(v) for v in values] for n, *values in map(str.split, lines[:end])}
        return rows, " ".join([title, head.strip(), lines[end + 1].split(":")[0]])

    (rows, rest), (rows_now, rest_now) = read(shown), read(demo.stdout)
    assert rest.split() == rest_now.split()
    assert list(rows) == list(rows_now)
    for parameter, (mean, sd, *_) in rows.items():
        assert abs(mean - rows_now[parameter][0]) < 0.15 * sd, parameter


# -- what they cover -----------------------------------------------------------------------------------


def everything() -> str:
    return "\n".join(p.read_text(encoding="utf-8") for p in DOCS)


@pytest.mark.parametrize("part", ["families", "algorithms", "objectives", "gradients", "divergences"])
def test_every_public_name_is_on_a_page(part):
    text = everything()
    missing = [n for n in getattr(lb, part).__all__ if not re.search(rf"\b{n}\b", text)]
    assert not missing, f"lowerbound.{part}: on no page of docs/: {missing}"


@pytest.mark.parametrize("status", [*lb.Status, *lb.VerdictStatus], ids=lambda s: s.name)
def test_every_status_is_explained(status):
    assert f"`{status.name}`" in everything()


def test_every_top_level_name_is_on_a_page():
    text = everything()
    names = [n for n in lb.__all__ if not n.startswith("_")]
    missing = [n for n in names if not re.search(rf"\blb\.{n}\b|import {n}\b", text)]
    # `expectations` and `model` are named by their place in the design.
    assert not [n for n in missing if f"`{n}/`" not in text], missing


def test_every_error_is_on_the_page_of_models():
    text = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    errors = [n for n, v in vars(lb.errors).items() if isinstance(v, type) and v.__module__ == "lowerbound.errors"]
    assert errors
    assert not [n for n in errors if n not in text]


def test_every_public_attribute_of_a_posterior_is_on_its_page():
    text = (ROOT / "docs/posterior.md").read_text(encoding="utf-8")
    names = {n for n in dir(lb.Posterior) if not n.startswith("_")}
    names |= {n for n in lb.Posterior.__dataclass_fields__ if not n.startswith("_")}
    missing = sorted(n for n in names if not re.search(rf"\b{n}\b", text))
    assert not missing, missing


def test_every_option_of_the_command_line_is_on_its_page():
    import typer.main

    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    commands = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    options = {o for c in commands.values() for p in c.params for o in p.opts if o.startswith("--") and o != "--help"}
    assert options == set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page))
    for command in commands:
        assert f"lowerbound {command}" in page


@pytest.mark.parametrize(
    "algorithm",
    [
        "ScoreRegression",
        "SampleAverage",
        "GradientVI",
        "BlackBoxVI",
        "FromGaussian",
        "MomentMatching",
        "MarkovianScoreClimbing",
        "BatchAndMatch",
        "SVGD",
        "Maximum",
    ],
)
def test_the_table_of_options_has_each_with_its_default(algorithm):
    cls = getattr(lb.algorithms, algorithm)
    page = (ROOT / f"docs/methods/{cls.name}.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]*) \|$", page.partition("## Options")[2], re.MULTILINE))
    made = cls()
    assert set(rows) == set(cls.__dataclass_fields__)
    for option, shown in rows.items():
        value = getattr(made, option)
        if isinstance(value, (int, float)):
            assert float(shown.replace(",", "")) == value, option
        else:
            assert shown.strip("`") == str(value), option


def text_of(page: str, heading: str = "") -> str:
    """The text of a page from a heading on, its lines joined."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return " ".join(text[text.index(heading) :].split())


def test_the_thresholds_of_the_verdict_are_those_in_the_code():
    from lowerbound.diagnostics.chains import short as chains
    from lowerbound.diagnostics.rules import thresholds as rules
    from lowerbound.diagnostics.weights import tails

    page = text_of("verdict.md", "## The rules")
    shift, k = rules.SHIFT, (rules.GOOD_K, rules.USABLE_K)
    for said in (
        f"float64 cannot tell {rules.RESOLUTION:g} nats apart",
        f"gap − 2 · min(its standard error, {rules.GAP:g}) < {rules.GAP:g} nats",
        f"and gap < {4 * rules.GAP:g} nats",
        f"mean by more than {shift:g} standard deviations, and no log standard deviation by more than {shift:g};",
        f"k-hat < {k[0]:g} with more than {rules.FLOOR:.0%} of the draws effective;",
        f"or k-hat < {k[1]:g} with more than {rules.LEARNED:.0%};",
        f"the log evidence is below {rules.EVIDENCE_SE:g} nats;",
        f"at most {rules.MISSING:.0%} of the searches",
        f"at least {rules.EFFECTIVE:,} effective draws;",
        f"They are *mixed* if R-hat < {chains.R_HAT:g}",
        f"no coordinate has fewer than {chains.EFFECTIVE} effective draws",
        f"of a log standard deviation reaches {chains.ERROR:g}",
        f"fewer than {chains.DIVERGENCES:.1%} of the transitions are divergent",
        f"the mean acceptance is above {chains.ACCEPTANCE:g}",
        f"of what would be returned by more than {rules.DRIFT:g},",
        f"and so does an R-hat above {rules.APART:g}.",
        f"After rule 3 with k-hat of {rules.GOOD_K:g} or more",
        f"mixed chains with at least {rules.EFFECTIVE:,} effective draws take over where they agree",
        f"no log standard deviation of q is off by more than {shift:g}, nor",
        f"R-hat below {rules.APART:g}, at least 100 effective draws",
        f"in the units that you see, is {tails.NO_SD:g} or more.",
    ):
        assert said in page, said


def test_the_thresholds_of_what_is_reported_are_those_in_the_code():
    from lowerbound.diagnostics import discrete, reported
    from lowerbound.model import responsibilities

    page = text_of("verdict.md", "## What is reported is what is judged")
    assert f"up to {reported._COLUMNS:,} of them, evenly spaced, where a draw has at most {reported._NUMBERS:,}" in page
    assert f"by more than {discrete.DIFFERENT:g} in total variation, or a tenth" in page and discrete.WIDER == 0.1
    page = text_of("posterior.md", "## Discrete latents")
    assert f"over {responsibilities._MOST:,} draws" in page and f"and {responsibilities._FEWEST} draws at least" in page
    assert "2^25 probabilities in all" in page and responsibilities._IN_ALL == 2**25


def test_the_thresholds_of_the_chains_are_those_in_the_code():
    from lowerbound.diagnostics.chains import hamiltonian
    from lowerbound.diagnostics.chains import short as chains
    from lowerbound.diagnostics.rules import thresholds as rules

    page = text_of("methods/chains.md")
    (accept, steps), (finer, more) = chains._PACES
    *first, last = chains.STAGES
    for said in (
        f"After {', '.join(map(str, first))} and {last} transitions",
        f"{chains._WARMUP} transitions of warm-up ({chains._SHORT} above {chains._DENSE:,} dimensions) adapt the step "
        f"size h to an acceptance of {accept:g}",
        f"and {steps} leapfrog steps at most",
        f"with an acceptance of {finer:g} and up to {more} steps",
        f"{chains._SHORT + chains.STAGES[0]} to {chains._WARMUP + last} transitions a pace",
        f"an R-hat above {chains._APART:g}, more than {chains._HOPELESS:.1%} of the transitions divergent",
        f"split R-hat below {chains.R_HAT:g},",
        f"at least {chains.EFFECTIVE} effective draws of every coordinate",
        f"of a log standard deviation below {chains.ERROR:g};",
        f"fewer than {chains.DIVERGENCES:.1%} of the transitions divergent",
        f"(an energy error above {hamiltonian._DIVERGENT:,.0f})",
        f"mean acceptance above {chains.ACCEPTANCE:g}.",
        f"weighted covariance up to {chains._DENSE:,} dimensions",
        f"more than {rules.DRIFT:g} *and* more than noise",
        f"|shift| > max({rules.DRIFT:g}, z · se)",
        f"(R-hat below {rules.APART:g}, at least 100 effective draws",
    ):
        assert said in page, said
    evidence = text_of("methods/evidence.md")
    assert f"(R-hat < {chains.R_HAT:g}, fewer than {chains.DIVERGENCES:.1%} divergent," in evidence
    assert f"acceptance above {chains.ACCEPTANCE:g})" in evidence


def test_the_numbers_of_escalation_and_evidence_are_those_in_the_code():
    from lowerbound import escalation
    from lowerbound.algorithms import shape_ascent
    from lowerbound.diagnostics.chains import short as chains
    from lowerbound.diagnostics.modes import labellings
    from lowerbound.diagnostics.weights import importance
    from lowerbound.diagnostics.weights.paired_gain import GROUP

    page = text_of("methods/escalation.md")
    for said in (
        f"bound with K = {GROUP} draws",
        f"kept if gain > {escalation._SURE:g} standard errors",
        f"An element below {escalation._LITTLE:g} is taken as 0.",
        f"could correct the Gaussian; p ≤ {shape_ascent.SHAPE_LIMIT}",
        f"2 ≤ p ≤ {escalation.FLOW_LIMIT:,}, and the log density is cheap",
        f"cheap enough for {escalation._FEWEST_STEPS} iterations",
        f"In more than {importance.MANY} dimensions, where weights can hardly tell",
    ):
        assert said in page, said
    assert f"In more than {importance.MANY} dimensions nothing is learned" in text_of("methods/importance.md")
    page = text_of("methods/evidence.md")
    assert "up to ten components, a bound above" in page and labellings.EXACT == 10
    assert "above six components" in page and labellings._LISTED == 6
    assert f"up to {chains._ENDS} states of the [short chains]" in text_of("methods/evidence.md")


def test_every_name_of_a_trial_is_on_the_page_of_escalation():
    import inspect

    from lowerbound.escalation import Trial

    names = re.findall(r'``"([\w -]+)"``', inspect.getdoc(Trial) or "")
    assert names
    page = text_of("methods/escalation.md")
    assert not [n for n in names if f"`{n}`" not in page]


def test_the_compatibility_table_is_the_one_in_the_code():
    page = (ROOT / "docs/methods/gradient_vi.md").read_text(encoding="utf-8")
    for objective, gradients in lb.gradients.COMPATIBLE.items():
        assert f"| `{objective}` | {', '.join(f'`{g}`' for g in gradients)} |" in page
    page = (ROOT / "docs/methods/black_box_vi.md").read_text(encoding="utf-8")
    for objective, gradients in lb.gradients.SITE_COMPATIBLE.items():
        assert f"| `{objective}` | {', '.join(f'`{g}`' for g in gradients)} |" in page


# -- links ---------------------------------------------------------------------------------------------


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", outside_fences(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in heads}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_somewhere(page):
    for link in LINK.findall(outside_fences(page)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), f"{link}: there is no such file"
        if page in DOCS:
            assert target in DOCS, f"{link}: outside docs/, which the built pages cannot reach"
        if anchor:
            assert anchor in anchors(target), f"{link}: no such heading"


PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)\s]+)\)")


def test_pictures_are_there_and_are_told_to_those_who_do_not_see_them():
    shown = set()
    for page in PAGES:
        for words, path in PICTURE.findall(outside_fences(page)):
            picture = (page.parent / path).resolve()
            assert picture.is_file(), f"{name(page)}: {path}: there is no such file"
            assert picture.stat().st_size < 60_000, f"{path} is large"
            assert len(words.split()) > 5, f"{name(page)}: {path}: say what is to be seen"
            shown.add(picture)
    assert shown == set((ROOT / "docs/images").iterdir()), "a picture that no page shows"


@pytest.mark.slow
def test_the_pictures_of_the_page_of_trust_can_be_made(tmp_path):
    pytest.importorskip("matplotlib")
    path = os.pathsep.join(filter(None, [str(Path(lb.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs/pictures/make_trust.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    shown = PICTURE.findall(outside_fences(ROOT / "docs/trust.md"))
    assert {p.name for p in tmp_path.iterdir()} == {Path(path).name for _, path in shown}


def test_the_pictures_of_the_lessons_can_be_made(tmp_path):
    pytest.importorskip("matplotlib")
    script = str(ROOT / "docs/pictures/make_learn.py")
    done = subprocess.run([sys.executable, script, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    shown = [p for page in LESSONS for _, p in PICTURE.findall(outside_fences(page))]
    assert {p.name for p in tmp_path.iterdir()} == {Path(path).name for path in shown}


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    assert set(re.findall(r": (\S+\.md)$", text, re.MULTILINE)) == {
        p.relative_to(ROOT / "docs").as_posix() for p in DOCS
    }
