"""`manta`: parse, call, print; no logic. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from manta import __version__
from manta.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, InputError, MantaError

STAGES = {
    "prepare": "documents -> cleaned, deduplicated, tokenised, packed shards",
    "pretrain": "shards -> a model from scratch (or from weights)",
    "finetune": "a model and examples -> a tuned model",
    "tune": "many fine-tunings -> the best of them",
    "compress": "a model -> a smaller, faster one",
    "evaluate": "a model -> scores, recovery against its base, and the gate's verdict",
}


def build_parser() -> argparse.ArgumentParser:
    """The whole command line."""
    parser = argparse.ArgumentParser(
        prog="manta",
        description="Raw text in, a served language model out, on Ray.",
        epilog="exit codes: 0 done; 2 recipe or input wrong, nothing started; 3 failed, resumable; 4 a gate refused; 130 interrupted",
    )
    parser.add_argument("--version", action="version", version=f"manta {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for name, what in STAGES.items():
        _recipe_command(commands, name, what, run_stage)
    _recipe_command(commands, "run", "a pipeline: every stage in order, complete ones skipped", run_pipeline)

    serve = commands.add_parser("serve", help="host a model behind an OpenAI-compatible endpoint; `serve stop` ends it")
    serve.add_argument("recipe", help="recipe file, or `stop`")
    serve.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to override; after `stop`: the recipe file"
    )
    serve.add_argument(
        "--detach", action="store_true", help="return once the endpoint is ready; it goes on in the background"
    )
    serve.add_argument("--dry-run", action="store_true", help="print the resolved recipe and the plan, start nothing")
    serve.add_argument("--json", action="store_true", help="one JSON object per line on stdout")
    serve.set_defaults(call=run_serve)

    _plan_command(commands)

    resume = commands.add_parser("resume", help="carry on a run that broke off, from its last checkpoint")
    resume.add_argument("run", help="folder of the run, e.g. runs/quickstart/base")
    resume.add_argument("--json", action="store_true", help="one JSON object per line on stdout")
    resume.set_defaults(call=run_resume)

    submit = _recipe_command(
        commands, "submit", "the same stage or pipeline as a Ray job on a cluster", run_submit, runs=False
    )
    submit.add_argument(
        "--address", required=True, metavar="URL", help="the cluster's dashboard, e.g. http://head:8265"
    )

    status = commands.add_parser("status", help="what ran, what is unfinished, what is running")
    status.add_argument("folders", nargs="*", help="folders that hold runs (default: runs)")
    status.add_argument("--json", action="store_true", help="one JSON object per line on stdout")
    status.set_defaults(call=run_status)

    lineage = commands.add_parser("lineage", help="where an artifact comes from, back to the documents")
    lineage.add_argument("artifact", help="folder of the artifact, e.g. runs/quickstart/compressed")
    lineage.add_argument("--json", action="store_true", help="the tree as one JSON object")
    lineage.set_defaults(call=run_lineage)

    report = commands.add_parser("report", help="write the run's page (report.html) and print where it is")
    report.add_argument("run", help="folder of the run")
    report.set_defaults(call=run_report)

    compare = commands.add_parser(
        "compare", help="two runs side by side: settings that differ, figures; of evaluations how sure"
    )
    compare.add_argument("a", help="folder of one run")
    compare.add_argument("b", help="folder of the other")
    compare.set_defaults(call=run_compare)

    chat = commands.add_parser("chat", help="talk to a model folder or to a running endpoint")
    chat.add_argument("target", help="artifact folder, model folder, or URL such as http://127.0.0.1:8000")
    chat.add_argument("--key", help="API key of the endpoint (or set MANTA_API_KEY)")
    chat.add_argument("--model", help="the model's name, where an endpoint serves several")
    chat.add_argument("--system", help="system prompt")
    chat.add_argument("--max-tokens", type=int, default=256, help="longest answer, in tokens (default: 256)")
    chat.add_argument("--temperature", type=float, default=0.0, help="0 always takes the likeliest token (default)")
    chat.set_defaults(call=run_chat)

    doctor = commands.add_parser("doctor", help="what this machine and cluster can do, and what is missing")
    doctor.add_argument("--address", help="also check the cluster at this Ray address")
    doctor.add_argument("--json", action="store_true", help="one JSON object per line on stdout")
    doctor.set_defaults(call=run_doctor)

    drill = commands.add_parser("drill", help="kill or stop workers of a copy of a run, prove the same loss curve")
    drill.add_argument("run", help="folder of a finished pretrain or finetune run")
    drill.add_argument("--kills", type=int, default=2, help="how many times a worker is killed (default: 2)")
    drill.add_argument("--hang", type=int, default=0, help="how many times one is stopped, as if it hung (default: 0)")
    drill.add_argument("--json", action="store_true", help="one JSON object per line on stdout")
    drill.set_defaults(call=run_drill)

    schema = commands.add_parser("schema", help="JSON Schema of a kind of recipe, for editors")
    schema.add_argument("kind", help="prepare, pretrain, finetune, tune, compress, evaluate, serve or pipeline")
    schema.set_defaults(call=run_schema)
    return parser


def _plan_command(commands: Any) -> None:
    what = "memory per worker, disk, hours; refuses what cannot fit; advises on GPUs"
    plan = _recipe_command(commands, "plan", what, run_plan, runs=False)
    plan.add_argument("--measure", action="store_true", help="try a few steps of training here, and plan by them")
    plan.add_argument("--gpu", help="advise on GPUs of this kind: h100, h200, a100, b200, l4 ...")
    plan.add_argument("--gpus", type=int, help="how many of them (default: as many as the recipe's workers)")
    plan.add_argument(
        "--mfu", type=float, default=0.4, help="share of a GPU's peak that training reaches (default: 0.4)"
    )
    plan.add_argument("--price-per-hour", type=float, help="of one GPU, in any currency: adds the cost")
    plan.add_argument("--seq-len", type=int, help="tokens of a row, where the shards are not there yet")
    plan.add_argument("--vocab-size", type=int, help="of the tokenizer, where the shards are not there yet")


def _recipe_command(commands: Any, name: str, what: str, call: Any, runs: bool = True) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = commands.add_parser(name, help=what, description=what)
    command.add_argument("recipe", help="recipe file (YAML)")
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to override, e.g. optimizer.lr=3e-4"
    )
    command.add_argument("--json", action="store_true", help="one JSON object per line on stdout")
    if runs:
        command.add_argument(
            "--dry-run", action="store_true", help="print the resolved recipe and the plan, start nothing"
        )
        command.add_argument("--replace", action="store_true", help="make an artifact again that has other settings")
    command.set_defaults(call=call)
    return command


# --- commands --------------------------------------------------------------------------------------------------------


def run_stage(args: argparse.Namespace) -> int:
    from manta import pipeline, recipe, stage

    loaded = recipe.load(args.recipe, args.overrides, kind=args.command)
    if args.dry_run:
        _dry_run([loaded], args.json)
        return _preview(loaded, args.json) if args.command in ("finetune", "tune") else EXIT_DONE
    outcome = stage.run(loaded, _progress(args), args.replace)  # type: ignore[arg-type]
    if not args.json:
        print(pipeline.summary([outcome]))
    return EXIT_DONE


def run_pipeline(args: argparse.Namespace) -> int:
    from manta import pipeline

    _, chain = pipeline.load(args.recipe, args.overrides)
    if args.dry_run:
        return _dry_run(chain, args.json)
    outcomes = pipeline.run(chain, _progress(args), args.replace)
    if not args.json:
        print(pipeline.summary(outcomes))
    return EXIT_DONE


def run_serve(args: argparse.Namespace) -> int:
    from manta import recipe, schema
    from serving import run

    if args.recipe == "stop":
        if len(args.overrides) != 1:
            raise InputError("manta serve stop RECIPE: name the recipe (or the folder) of the endpoint to stop")
        print(run.stop(args.overrides[0]))
        return EXIT_DONE
    loaded = recipe.load(args.recipe, args.overrides, kind="serve")
    assert isinstance(loaded, schema.ServeRecipe)
    if args.dry_run:
        return _dry_run([loaded], args.json)
    if args.detach:
        print(run.detach(loaded, _progress(args)))
        return EXIT_DONE
    run.serve(loaded, _progress(args))
    return EXIT_DONE


def run_plan(args: argparse.Namespace) -> int:
    from manta import plan

    given = plan.Given(
        gpu=args.gpu,
        gpus=args.gpus,
        price_per_gpu_hour=args.price_per_hour,
        mfu=args.mfu,
        seq_len=args.seq_len,
        vocab_size=args.vocab_size,
        measure=args.measure,
    )
    for item in _load_any(args):
        _print_plan(plan.plan(item, given), args.json)
    return EXIT_DONE


def run_resume(args: argparse.Namespace) -> int:
    from manta import pipeline, stage

    outcome = stage.resume(args.run, _progress(args))
    if not args.json:
        print(pipeline.summary([outcome]))
    return EXIT_DONE


def run_submit(args: argparse.Namespace) -> int:
    from manta import submit

    return submit.submit(args.recipe, args.overrides, args.address, as_json=args.json)


def run_status(args: argparse.Namespace) -> int:
    from manta.report import status

    rows = status.rows(args.folders)
    print("\n".join(json.dumps(row) for row in rows) if args.json else status.table(rows))
    return EXIT_DONE


def run_lineage(args: argparse.Namespace) -> int:
    from manta import artifact
    from manta.report import lineage

    tree = artifact.lineage(artifact.open_artifact(args.artifact))
    print(json.dumps(tree, indent=2) if args.json else lineage.text(tree))
    return EXIT_DONE


def run_report(args: argparse.Namespace) -> int:
    from manta.report import page

    print(page.write(args.run))
    return EXIT_DONE


def run_compare(args: argparse.Namespace) -> int:
    from manta.report import compare

    print(compare.text(args.a, args.b))
    return EXIT_DONE


def run_chat(args: argparse.Namespace) -> int:
    from manta import chat

    return chat.chat(
        args.target,
        key=args.key,
        model=args.model,
        system=args.system,
        max_tokens=args.max_tokens,
        temperature=args.temperature,
    )


def run_doctor(args: argparse.Namespace) -> int:
    from manta import doctor

    checks = doctor.examine(args.address)
    print("\n".join(json.dumps(check.as_json()) for check in checks) if args.json else doctor.text(checks))
    return EXIT_DONE if all(check.ok for check in checks) else EXIT_FAILED


def run_drill(args: argparse.Namespace) -> int:
    from manta.train import drill

    result = drill.drill(args.run, args.kills, _progress(args), args.hang)
    print(json.dumps(result) if args.json else drill.text(result))
    return EXIT_DONE


def run_schema(args: argparse.Namespace) -> int:
    from manta import recipe

    print(json.dumps(recipe.json_schema(args.kind), indent=2))
    return EXIT_DONE


# --- around them -----------------------------------------------------------------------------------------------------


def _progress(args: argparse.Namespace) -> Any:
    from manta.progress import Progress

    return Progress(as_json=args.json)


def _load_any(args: argparse.Namespace) -> Sequence[Any]:
    """The recipes of a file: one, or a pipeline's chain."""
    from manta import pipeline, recipe

    if recipe.kind_of(args.recipe) == "pipeline":
        return pipeline.load(args.recipe, args.overrides)[1]
    return [recipe.load(args.recipe, args.overrides)]


def _dry_run(chain: Sequence[Any], as_json: bool) -> int:
    from manta import plan, recipe, stage

    for item in chain:
        stage.refuse_problems(item)
        if as_json:
            print(json.dumps({"event": "recipe", "name": item.name, "recipe": recipe.resolved(item)}))
        else:
            print(f"# {item.kind} {item.name}: the resolved recipe\n{recipe.to_yaml(item)}")
        _print_plan(plan.plan(item), as_json)
    return EXIT_DONE


def _preview(loaded: Any, as_json: bool) -> int:
    from manta.tasks import preview

    said = preview.show(loaded)
    print(json.dumps({"event": "preview", "lines": said}) if as_json else "\n" + "\n".join(said))
    return EXIT_DONE


def _print_plan(figures: dict[str, Any], as_json: bool) -> None:
    from manta import plan

    print(json.dumps({"event": "plan", **figures}) if as_json else plan.text(figures))


def _terminate(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line. argparse alone refuses overrides that stand behind an option; here they may stand anywhere."""
    parser = build_parser()
    args, rest = parser.parse_known_args(argv)
    late = [word for word in rest if hasattr(args, "overrides") and "=" in word and not word.startswith("-")]
    if wrong := [word for word in rest if word not in late]:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if late:
        args.overrides = [*args.overrides, *late]
    return args


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
