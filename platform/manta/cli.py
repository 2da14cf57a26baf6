"""`manta`: parse a command line, call its command, turn errors into messages and exit codes."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from manta.arguments import build_parser
from manta.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, MantaError

__all__ = ["build_parser", "entry", "main", "parse"]


def _terminate(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line. argparse alone refuses overrides that stand behind an option; here they may stand anywhere."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    late = [word for word in rest if hasattr(args, "overrides") and "=" in word and not word.startswith("-")]
    if wrong := [word for word in rest if word not in late]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if getattr(args, "parity", False):
        late.append("evaluate.parity=true")
    if late:
        args.overrides = [*args.overrides, *late]
    if hasattr(args, "data"):
        _few_words(parser, args)
    if hasattr(args, "best_of"):
        _sweep_or_its_best(parser, args)
    return args


def _few_words(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """A stage with a recipe file, or with --model and others instead: what argparse takes for the file may be an override."""
    if args.model is not None and args.recipe is not None and "=" in args.recipe:
        args.recipe, args.overrides = None, [args.recipe, *args.overrides]
    names = ("model", "data", "task", "validation", "hardware", "target")
    others = [{"hardware": "for"}.get(name, name) for name in names if getattr(args, name, None)]
    if args.recipe is not None and others:
        parser.error(
            f"--{others[0]} is for a {args.command} without a recipe file: leave it out, or leave {args.recipe} out"
        )
    if args.command == "compress":
        if args.recipe is None and (args.model is None or args.hardware is None or not args.target):
            parser.error(
                "name a recipe file, or --model, --for and --target: manta compress RECIPE, or manta compress --model DIR --for cpu "
                "--target 'size 0.5'"
            )
        return
    if args.recipe is None and (args.model is None or args.data is None):
        parser.error(
            f"name a recipe file, or both --model and --data: manta {args.command} RECIPE, or manta {args.command} --model DIR --data FILE"
        )


def _sweep_or_its_best(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """A sweep's recipe, or --best-of with the folder of one: what belongs to the one is refused beside the other."""
    if args.best_of is None:
        if args.recipe is None:
            parser.error("name a recipe file, or a sweep that ran: manta tune RECIPE, or manta tune --best-of SWEEP")
        if args.rank is not None or args.recipe_only:
            word = "--recipe-only" if args.rank is None else "--rank"
            parser.error(f"{word} is for --best-of: manta tune --best-of SWEEP {word}")
    elif args.recipe is not None or args.dry_run or args.replace:
        word = args.recipe or ("--dry-run" if args.dry_run else "--replace")
        parser.error(f"--best-of shows a sweep that ran and starts nothing: leave {word} out")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0 done, 2 input, 3 failed, 4 gate, 130 interrupted)."""
    args = parse(argv)
    signal.signal(signal.SIGTERM, _terminate)  # `kill`, `docker stop`, `ray job stop`: the same as Ctrl-C
    try:
        return int(args.call(args))
    except MantaError as error:
        _complain(args, str(error), error.exit_code)
        return error.exit_code
    except BrokenPipeError:  # the reader (head, less) has seen enough
        sys.stderr.close()
        return EXIT_DONE
    except KeyboardInterrupt:
        _complain(
            args, "interrupted; what was finished is kept: run the same command again to carry on", EXIT_INTERRUPTED
        )
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the last resort: show everything, and say that it can be resumed
        import traceback

        traceback.print_exc()
        _complain(
            args, f"unexpected {type(error).__name__}: {error}; run the same command again to carry on", EXIT_FAILED
        )
        return EXIT_FAILED
    finally:
        if "manta.cluster" in sys.modules:
            sys.modules["manta.cluster"].disconnect()


def _complain(args: argparse.Namespace, message: str, code: int) -> None:
    if getattr(args, "json", False):
        print(json.dumps({"event": "error", "message": message, "exit_code": code}), flush=True)
    print(f"manta: {message}", file=sys.stderr, flush=True)


def entry() -> NoReturn:
    """The process: `main`, and out. Ray is shut down by then, and a thread of it that wakes up late would end an
    interpreter that is still going down with exit code 1, whatever `main` returned."""
    code = main()
    sys.stdout.flush()
    if not sys.stderr.closed:
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    entry()
