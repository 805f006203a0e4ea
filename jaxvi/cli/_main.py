"""The command line's entry: parses `jaxvi demo` and `jaxvi fit FILE.csv`, fits and writes."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from jaxvi.cli._table import Table, UsageError, read_table

if TYPE_CHECKING:
    from jaxvi.cli._report import MixtureReport


_FAMILIES = ("mean-field", "full-rank")
_NUM_DRAWS = 4000
_NUM_ASSIGNMENT_DRAWS = 400  # of them, for the rows' component probabilities
_INTERRUPTED_STATUS = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for a mistake, 130 when interrupted."""
    try:
        args = _parser().parse_args(argv)
        run: Callable[[argparse.Namespace], int] = args.run
        return run(args)
    except UsageError as error:
        print(f"jaxvi: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("jaxvi: interrupted before there was a result", file=sys.stderr)
        return _INTERRUPTED_STATUS


class _Parser(argparse.ArgumentParser):
    """A parser that reports wrong arguments as a `UsageError`, in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; try '{self.prog} --help'")


class _Version(argparse.Action):
    """Prints the version, which is imported only when asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from jaxvi import __version__

        print(f"jaxvi {__version__}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="jaxvi", description="Variational inference, compiled by JAX.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    demo = commands.add_parser("demo", help="fit a Gaussian mixture to the iris data")
    demo.add_argument("--family", choices=_FAMILIES, help="one family; by default both in turn")
    _add_common(demo, out="jaxvi-demo")
    demo.set_defaults(run=_demo)
    fit = commands.add_parser("fit", help="fit a model to the columns of a CSV file")
    fit.add_argument("file", metavar="FILE.csv", help="numbers in columns, with or without header")
    fit.add_argument("--model", choices=["gaussian-mixture"], default="gaussian-mixture")
    fit.add_argument("--components", type=_at_least(1), required=True, metavar="K")
    fit.add_argument(
        "--label", metavar="COLUMN", help="name or number of a column to leave out and compare with"
    )
    fit.add_argument(
        "--family", choices=_FAMILIES, help="by default full-rank, for large models mean-field"
    )
    _add_common(fit, out="jaxvi-fit")
    fit.set_defaults(run=_fit)
    return parser


def _add_common(parser: argparse.ArgumentParser, *, out: str) -> None:
    parser.add_argument("--restarts", type=_at_least(1), default=64, metavar="R", help="default 64")
    parser.add_argument("--seed", type=_at_least(0), default=0, help="default 0")
    parser.add_argument(
        "--max-steps", type=_at_least(1), default=10_000, metavar="N", help="default 10000"
    )
    parser.add_argument("--out", type=Path, default=Path(out), metavar="FOLDER", help=f"{out}/")
    parser.add_argument("--no-plot", action="store_true", help="draw no picture")


def _at_least(least: int) -> Callable[[str], int]:
    """A parser of whole numbers from `least` on, for argparse."""

    def whole(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if not least <= value < 2**31:
            raise argparse.ArgumentTypeError(
                f"expected a whole number of at least {least}; got {text!r}"
            )
        return value

    return whole


def _demo(args: argparse.Namespace) -> int:
    from sklearn.datasets import load_iris

    iris = load_iris()
    table = Table(
        rows=np.asarray(iris.data, float),
        names=tuple(iris.feature_names),
        labels=[str(iris.target_names[i]) for i in iris.target],
        title="iris: 150 flowers of three species, 4 measurements",
    )
    return _run(args, table, 3, [args.family] if args.family else list(_FAMILIES))


def _fit(args: argparse.Namespace) -> int:
    table = read_table(Path(args.file), args.label)
    num_rows = len(table.rows)
    if num_rows < args.components:
        raise UsageError(
            f"expected at least {args.components} rows for {args.components} components; got "
            f"{num_rows} in {args.file}"
        )
    return _run(args, table, args.components, [args.family])


def _run(
    args: argparse.Namespace, table: Table, components: int, families: Sequence[str | None]
) -> int:
    """Fit each family in turn, print its report, then write the files."""
    if not args.no_plot:
        _check_matplotlib()
    _make_folder(args.out)
    num_rows = len(table.rows)
    print(table.title)
    print(
        f"{components} component{'' if components == 1 else 's'} with diagonal covariances, "
        f"{num_rows} rows, columns: {', '.join(table.names)}"
    )
    reports: list["MixtureReport"] = []
    for family in families:
        report = _fit_mixture(args, table, components, family)
        print("\n" + "\n".join(report.lines), flush=True)
        reports.append(report)
        if report.fit.interrupted:
            break
    written = _write(args, table, reports)
    print(f"\nwritten to {args.out}: {', '.join(written)}")
    if not reports[-1].fit.interrupted:
        return 0
    print("jaxvi: interrupted; the result is partial and marked so", file=sys.stderr)
    return _INTERRUPTED_STATUS


def _progress() -> Any:
    """The argument `progress` of `jaxvi.fit`; None is a bar on a terminal. Tests replace it."""
    return None


def _fit_mixture(
    args: argparse.Namespace, table: Table, components: int, family: str | None
) -> "MixtureReport":
    """Fit a mixture to the standardised columns in float32, and report it in the table's units.

    Without a family, the default of `jaxvi.fit`.
    """
    import jax
    import jax.numpy as jnp
    import optax

    import jaxvi
    from jaxvi import models
    from jaxvi.cli._report import mixture_report, order_by_weight

    centre, sd = table.rows.mean(axis=0), table.rows.std(axis=0)
    # float32 is enough for columns of unit scale, and takes half the time of float64
    data = jnp.asarray((table.rows - centre) / sd, jnp.float32)
    key_fit, key_draws = jax.random.split(jax.random.key(args.seed))
    known = dict(zip(_FAMILIES, (jaxvi.MeanField(), jaxvi.FullRank()), strict=True))
    fit = jaxvi.fit(
        key_fit,
        models.gaussian_mixture(components, table.rows.shape[1]),
        None if family is None else known[family],
        objective=jaxvi.ELBO(num_draws=16),
        # mirrored draws: less noise in the gradient at no cost, so that more restarts converge
        noise=jaxvi.Antithetic(),
        solver=jaxvi.Stochastic(optax.adam, learning_rate=0.02, tolerance=0.1, anneal=0.25),
        data=data,
        num_restarts=args.restarts,
        max_steps=args.max_steps,
        progress=_progress(),
    )
    name = next(name for name, used in known.items() if used == fit.setup.family)
    standard = order_by_weight(fit.sample(key_draws, _NUM_DRAWS))
    first_draws = {
        name: value[:_NUM_ASSIGNMENT_DRAWS].astype(np.float32) for name, value in standard.items()
    }
    probabilities = np.asarray(models.mean_responsibilities(first_draws, data), float).T
    draws = {
        "weights": standard["weights"],
        "means": centre + sd * standard["means"],
        "scales": sd * standard["scales"],
    }
    return mixture_report(name, fit, draws, probabilities, table.rows, table.names, table.labels)


def _check_matplotlib() -> None:
    try:
        import matplotlib as _  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(
            "expected matplotlib, for the picture; it is not installed; try "
            "pip install 'jaxvi[plot]', or --no-plot"
        ) from error


def _make_folder(folder: Path) -> None:
    """Create the output folder before the fit, so that an error costs no fit."""
    probe = folder / ".jaxvi-probe"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"expected --out to be a folder that can be written to; got {folder} "
            f"({error.strerror or error})"
        ) from error


def _write(args: argparse.Namespace, table: Table, reports: list["MixtureReport"]) -> list[str]:
    """Write all reports into the output folder; returns the names of the files."""
    from jaxvi.cli._report import write_reports

    picture = not args.no_plot
    try:
        return write_reports(
            args.out, table.title, table.rows, table.names, reports, picture=picture
        )
    except OSError as error:
        raise UsageError(f"could not write into {args.out} ({error.strerror or error})") from error
