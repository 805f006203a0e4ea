"""`python -m benchmarks NAME [ARGS]`: one folder a benchmark, registered by its name here."""

import argparse
import importlib
import sys

# Each name's folder has command.py, which gives HELP, add_arguments(parser) and run(args) -> exit
# status. That of `posteriors` has another name, which is the package of the posteriors themselves.
COMMANDS = {
    "engine": "engine",
    "solvers": "solvers",
    "posteriors": "accuracy",
    "mixture": "mixture",
    "scale": "scale",
    "layout": "layout",
}


def main(argv: list[str]) -> int:
    """Run the benchmark that is named first."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    commands = parser.add_subparsers(metavar="NAME", required=True)
    for name, place in COMMANDS.items():
        module = importlib.import_module(f"benchmarks.{place}.command")
        command = commands.add_parser(name, help=module.HELP, description=module.HELP)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    return args.run(args)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
