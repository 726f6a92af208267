"""The command line: ``lowerbound fit``, ``explain``, ``show``, ``calibrate`` and ``examples``.

Exit codes: 0 trusted or corrected, 3 fitted but not trusted (or not calibrated), 2 bad input, 130
interrupted before there was a result, 1 a bug. What is asked for goes to standard output; progress, notes
and errors go to the error stream. JAX and NumPyro are imported inside the commands that need them, so
that ``--help`` and a mistyped option answer at once.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stdout
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from lowerbound.cli.read import InputError, check_file, model_and_data
from lowerbound.cli.write import DRAWS_FORMATS, ranks, result, write_draws
from lowerbound.errors import LowerboundError, TrustWarning

TRUSTED, BUG, BAD_INPUT, NOT_TRUSTED, INTERRUPTED = 0, 1, 2, 3, 130

app = typer.Typer(
    name="lowerbound",
    help="Variational inference that says how far its answer can be trusted.",
    epilog="Exit codes: 0 trusted or corrected, 3 fitted but not trusted, 2 bad input, 130 interrupted.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """The entry point of the ``lowerbound`` command."""
    app()


def _version(value: bool) -> None:
    if value:
        typer.echo(f"lowerbound {metadata.version('lowerbound')}")
        raise typer.Exit


_Target = Annotated[
    str, typer.Argument(metavar="MODEL", help="FILE.py:NAME, or the name of a bundled example (eight-schools).")
]
_Data = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="The model's arguments: .csv or .parquet columns, .json keys, .npz arrays."),
]


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
def fit(
    target: _Target,
    data: _Data = None,
    out: Annotated[str | None, typer.Option("--out", "-o", metavar="FILE", help="Save the posterior here.")] = None,
    draws: Annotated[str | None, typer.Option(metavar="FILE", help="Write draws here: .csv, .parquet or .npz.")] = None,
    num_draws: Annotated[int, typer.Option(min=1, help="How many draws --draws writes.")] = 1000,
    family: Annotated[str | None, typer.Option(help="The family of q; chosen for the model by default.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="How q is moved; chosen by default.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bits.")] = 0,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes, no table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")] = False,
) -> None:
    """Fit MODEL and say whether the posterior can be trusted."""
    with _errors():
        _check_outputs(out, draws)
        note = (lambda text: None) if quiet else (lambda text: typer.echo(f"note: {text}", err=True))
        with _stdout_for(as_json), warnings.catch_warnings():
            warnings.simplefilter("ignore", TrustWarning)  # the verdict is printed below
            model, values = model_and_data(target, data, note)
            import lowerbound

            posterior = lowerbound.fit(
                model,
                values,
                family=family,
                algorithm=algorithm,
                seed=seed,
                max_steps=max_steps,
                progress=False if quiet else None,
            )
            with _writing(out):
                if out:
                    posterior.save(out)
            with _writing(draws):
                if draws:
                    write_draws(posterior.sample(num_draws, seed=seed), Path(draws))
        _print(posterior, quiet, as_json)
        for what, where in (("posterior", out), (f"{num_draws:,} draws", draws)):
            if where:
                note(f"{what} written to {where}")
    raise typer.Exit(_exit_code(posterior))


@app.command()
def explain(
    target: _Target,
    data: _Data = None,
    latex: Annotated[
        bool, typer.Option("--latex", help="The ELBO and the updates as LaTeX, in place of the table.")
    ] = False,
) -> None:
    """Say which update each latent of MODEL gets, and why, without running any."""
    with _errors():
        with redirect_stdout(sys.stderr):  # what a model prints is not part of the answer
            model, values = model_and_data(target, data, lambda text: typer.echo(f"note: {text}", err=True))
            import lowerbound

            explanation = lowerbound.explain(model, values)
            text = explanation.latex().rstrip("\n") if latex else str(explanation)
        if sys.stdout.isatty() and not latex:
            from rich.console import Console

            Console(highlight=False).print(explanation)
        else:
            typer.echo(text)


@app.command()
def show(
    path: Annotated[str, typer.Argument(metavar="FILE", help="A posterior saved by `fit --out`.")],
    as_json: Annotated[bool, typer.Option("--json", help="As JSON on standard output.")] = False,
) -> None:
    """Print the summary and the verdict of a saved posterior."""
    with _errors():
        check_file(path)
        import lowerbound

        try:
            posterior = lowerbound.load(path)
        except OSError as e:
            raise InputError(f"cannot read {path}: {e.strerror or e}.") from e
        _print(posterior, False, as_json)
    raise typer.Exit(_exit_code(posterior))


@app.command()
def calibrate(
    target: Annotated[
        str, typer.Argument(metavar="MODEL", help="FILE.py:NAME, or the name of a bundled example (eight-schools).")
    ],
    data: Annotated[
        str | None, typer.Option(metavar="FILE", help="The model's arguments; what it observes is simulated.")
    ] = None,
    num_datasets: Annotated[int, typer.Option(min=1, help="How many data sets are simulated and fitted.")] = 100,
    num_ranked: Annotated[int, typer.Option(min=7, help="Draws a fit; one less than a multiple of 8.")] = 127,
    source: Annotated[str, typer.Option(help="Whose draws: those of the posterior, or of q alone.")] = "posterior",
    family: Annotated[str | None, typer.Option(help="The family of q; chosen for the model by default.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="How q is moved; chosen by default.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bits.")] = 0,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop each fit after so many steps.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no notes, no table.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The result as JSON on standard output.")] = False,
) -> None:
    """Fit data simulated from MODEL and test whether the posteriors are calibrated."""
    with _errors():
        note = (lambda text: None) if quiet else (lambda text: typer.echo(f"note: {text}", err=True))
        with _stdout_for(as_json):
            model, values = model_and_data(target, data, note)
            import lowerbound

            calibration = lowerbound.calibrate(
                model,
                values,
                num_datasets=num_datasets,
                num_ranked=num_ranked,
                source=source,
                family=family,
                algorithm=algorithm,
                seed=seed,
                max_steps=max_steps,
                progress=False if quiet else None,
            )
            text = json.dumps(ranks(calibration), indent=2, allow_nan=False) if as_json else str(calibration)
        if as_json or not quiet:
            typer.echo(text)
    raise typer.Exit(TRUSTED if calibration.ok else NOT_TRUSTED)


@app.command()
def examples() -> None:
    """List the bundled examples."""
    from lowerbound.examples import titles

    known = titles()
    width = max(map(len, known))
    for name, title in known.items():
        typer.echo(f"{name:<{width}}  {title}")


def _exit_code(posterior: Any) -> int:
    return NOT_TRUSTED if posterior.verdict.status.name == "NOT_TRUSTED" else TRUSTED


def _print(posterior: Any, quiet: bool, as_json: bool) -> None:
    if as_json:
        with _stdout_for(as_json):
            text = json.dumps(result(posterior), indent=2, allow_nan=False)
        typer.echo(text)
    elif not quiet:
        from lowerbound.report.table import show as show_table

        show_table(posterior)


def _stdout_for(as_json: bool) -> AbstractContextManager:
    """Where what a model prints goes: not among the JSON."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


@contextmanager
def _errors() -> Iterator[None]:
    """Print what a person did wrong as one line and no traceback; a bug keeps its traceback."""
    try:
        yield
    except LowerboundError as e:
        typer.echo(f"error: {e}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except ImportError as e:
        if (e.name or "").partition(".")[0] == "lowerbound":
            raise
        typer.echo(f"error: {e}", err=True)
        raise typer.Exit(BAD_INPUT) from None
    except KeyboardInterrupt:
        typer.echo("interrupted: there is no result yet.", err=True)
        raise typer.Exit(INTERRUPTED) from None


@contextmanager
def _writing(path: str | None) -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise InputError(f"cannot write {path}: {e.strerror or e}.") from e


def _check_outputs(out: str | None, draws: str | None) -> None:
    """Refuse what could not be written before the fit, not after it."""
    if draws and Path(draws).suffix.lower() not in DRAWS_FORMATS:
        raise InputError(f"--draws {draws} has no known format; needed: a name that ends in .csv, .npz or .parquet.")
    for option, path in (("--out", out), ("--draws", draws)):
        if not path:
            continue
        if Path(path).is_dir():
            raise InputError(f"{option} {path} is a directory; needed: the name of a file.")
        above = next(p for p in Path(path).absolute().parents if p.exists())  # what is missing below it is made
        if not above.is_dir():
            raise InputError(f"{option} {path}: {above.name} is not a directory.")
        if not os.access(above, os.W_OK):
            raise InputError(f"{option} {path}: {above} cannot be written to.")
