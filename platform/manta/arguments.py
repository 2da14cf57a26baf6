"""The command line of `manta`: its commands, their options and what help says of them; builds a parser, does nothing."""

from __future__ import annotations

import argparse
from typing import Any

from manta import __version__, commands

STAGES = {
    "prepare": "documents -> cleaned, deduplicated, tokenised, packed shards",
    "pretrain": "shards -> a model from scratch (or from weights)",
    "finetune": "a model and examples -> a tuned model",
    "tune": "many runs of one recipe -> the best of them",
    "compress": "a model -> a smaller, faster one",
    "generate": "a teacher and questions, or rows -> what it answers, for a student to learn",
    "evaluate": "a model -> scores, recovery against its base, and the gate's verdict",
}
FEW_WORDS = ("finetune", "evaluate", "compress")  # stages that go without a recipe file
METHODS = ("cat", "svd", "linear", "ties", "dare_linear", "dare_ties")  # of adapt.combining
CODES = "0 done; 2 recipe or input wrong, nothing started; 3 failed, resumable; 4 a gate refused; 130 interrupted"


def build_parser() -> argparse.ArgumentParser:
    """The whole command line. `call` of what it parses is the function of `manta.commands` that does it."""
    parser = argparse.ArgumentParser(
        prog="manta", description="Raw text in, a served language model out, on Ray.", epilog=f"exit codes: {CODES}"
    )
    parser.add_argument("--version", action="version", version=f"manta {__version__}")
    known = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, what in STAGES.items():
        stage = _recipe(known, name, what, commands.run_stage, optional=name in FEW_WORDS or name == "tune")
        if name in FEW_WORDS:
            _schemes(stage) if name == "compress" else _few_words(stage, name)
        if name == "tune":
            _best_of(stage)
        if name == "evaluate":
            stage.add_argument("--parity", action="store_true", help="short for evaluate.parity=true")
    _recipe(known, "run", "a pipeline: every stage in order, complete ones skipped", commands.run_pipeline)
    for add in (
        _serve,
        _bench_serve,
        _plan,
        _resume,
        _submit,
        _status,
        _lineage,
        _report,
        _compare,
        _merge,
        _unmerge,
        _chat,
        _keys,
        _doctor,
        _drill,
        _schema,
    ):
        add(known)
    return parser


# --- what takes a recipe ---------------------------------------------------------------------------------------------


def _recipe(
    known: Any, name: str, what: str, call: Any, runs: bool = True, optional: bool = False
) -> argparse.ArgumentParser:
    command: argparse.ArgumentParser = known.add_parser(name, help=what, description=what)
    command.add_argument("recipe", nargs="?" if optional else None, help="recipe file (YAML)")
    command.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to override, e.g. optimizer.lr=3e-4"
    )
    _json(command)
    if runs:
        command.add_argument(
            "--dry-run", action="store_true", help="print the resolved recipe and the plan, start nothing"
        )
        command.add_argument("--replace", action="store_true", help="make an artifact again that has other settings")
    command.set_defaults(call=call)
    return command


def _few_words(stage: argparse.ArgumentParser, name: str) -> None:
    """The form without a recipe: --model, --data and perhaps --task."""
    words = stage.add_argument_group("without a recipe file", "the rest follows from these, is told, and written down")
    words.add_argument(
        "--model", metavar="MODEL", help="Hugging Face directory, a run such as runs/NAME, or package:NAME"
    )
    words.add_argument("--data", metavar="FILE", help="labelled examples: .jsonl, .csv, .tsv, .parquet, .conll")
    words.add_argument(
        "--task", help="what is learnt: classification, ner, qa, chat ... (default: told by the columns)"
    )
    if name == "finetune":
        words.add_argument(
            "--validation", metavar="FILE", help="a second file to validate with (default: part of the first)"
        )


def _schemes(stage: argparse.ArgumentParser) -> None:
    """The form without a recipe: --model, --for and --target."""
    words = stage.add_argument_group(
        "without a recipe file", "a few schemes are tried and measured, and the best that keeps the target is kept"
    )
    words.add_argument(
        "--model", metavar="MODEL", help="Hugging Face directory, a run such as runs/NAME, or package:NAME"
    )
    words.add_argument("--for", dest="hardware", metavar="HARDWARE", help="what will serve it: cpu or h100")
    words.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="TARGET",
        help="'size 0.5', 'perplexity 1.05', 'speed 1.3' or 'throughput 1.2', ratios to the model's own; several: all of them",
    )
    words.add_argument(
        "--data",
        metavar="SHARDS",
        help="prepared rows to calibrate and judge with (default: those of the model's lineage)",
    )


def _best_of(tune: argparse.ArgumentParser) -> None:
    """The form that shows what a sweep has found."""
    shown = tune.add_argument_group("of a sweep that ran, or runs", "nothing is trained")
    shown.add_argument("--best-of", metavar="SWEEP", help="show the best trial, and how to train on with it")
    shown.add_argument("--rank", type=int, metavar="N", help="the N-th best trial instead (default: 1, the best)")
    shown.add_argument("--recipe-only", action="store_true", help="print nothing but the recipe that makes it again")


def _serve(known: Any) -> None:
    serve = known.add_parser("serve", help="host a model behind an OpenAI-compatible endpoint; `serve stop` ends it")
    serve.add_argument("recipe", help="recipe file, or `stop`")
    serve.add_argument(
        "overrides", nargs="*", metavar="key=value", help="settings to override; after `stop`: the recipe file"
    )
    serve.add_argument(
        "--detach", action="store_true", help="return once the endpoint is ready; it goes on in the background"
    )
    serve.add_argument(
        "--update",
        action="store_true",
        help="have the detached endpoint of this name become this, with no request failed; with serve.canary only if it does "
        "as well on a share of the requests (exit code 4: it is worse, 3: it could not be told)",
    )
    serve.add_argument("--dry-run", action="store_true", help="print the resolved recipe and the plan, start nothing")
    serve.add_argument(
        "--yaml", action="store_true", help="print it as a configuration for `serve deploy` on a cluster, start nothing"
    )
    _json(serve)
    serve.set_defaults(call=commands.run_serve)


def _plan(known: Any) -> None:
    what = "memory per worker, disk, hours; refuses what cannot fit; advises on GPUs"
    plan = _recipe(known, "plan", what, commands.run_plan, runs=False)
    plan.add_argument("--measure", action="store_true", help="try a few steps of training here, and plan by them")
    plan.add_argument("--gpu", help="advise on GPUs of this kind: h100, h200, a100, b200, l4 ...")
    plan.add_argument("--gpus", type=int, help="how many of them (default: as many as the recipe's workers)")
    plan.add_argument(
        "--mfu", type=float, default=0.4, help="share of a GPU's peak that training reaches (default: 0.4)"
    )
    plan.add_argument("--price-per-hour", type=float, help="of one GPU, in any currency: adds the cost")
    plan.add_argument("--seq-len", type=int, help="tokens of a row, where the shards are not there yet")
    plan.add_argument("--vocab-size", type=int, help="of the tokenizer, where the shards are not there yet")


def _submit(known: Any) -> None:
    what = "the same stage or pipeline as a Ray job on a cluster"
    submit = _recipe(known, "submit", what, commands.run_submit, runs=False)
    submit.add_argument(
        "--address", required=True, metavar="URL", help="the cluster's dashboard, e.g. http://head:8265"
    )


# --- what takes a run ------------------------------------------------------------------------------------------------


def _resume(known: Any) -> None:
    resume = known.add_parser("resume", help="carry on a run that broke off, from its last checkpoint")
    resume.add_argument("run", help="folder of the run, e.g. runs/quickstart/base")
    _json(resume)
    resume.set_defaults(call=commands.run_resume)


def _status(known: Any) -> None:
    status = known.add_parser("status", help="what ran, what is unfinished, what is running")
    status.add_argument("folders", nargs="*", help="folders that hold runs (default: runs)")
    _json(status)
    status.set_defaults(call=commands.run_status)


def _lineage(known: Any) -> None:
    lineage = known.add_parser("lineage", help="where an artifact comes from, back to the documents")
    lineage.add_argument("artifact", help="folder of the artifact, e.g. runs/quickstart/compressed")
    lineage.add_argument("--json", action="store_true", help="the tree as one JSON object")
    lineage.set_defaults(call=commands.run_lineage)


def _report(known: Any) -> None:
    report = known.add_parser("report", help="write the run's page (report.html) and print where it is")
    report.add_argument("run", help="folder of the run")
    report.set_defaults(call=commands.run_report)


def _compare(known: Any) -> None:
    what = "two runs side by side: settings that differ, figures; of evaluations how sure"
    compare = known.add_parser("compare", help=what)
    compare.add_argument("a", help="folder of one run")
    compare.add_argument("b", help="folder of the other")
    compare.set_defaults(call=commands.run_compare)


def _drill(known: Any) -> None:
    drill = known.add_parser("drill", help="kill or stop workers of a copy of a run, prove the same loss curve")
    drill.add_argument("run", help="folder of a finished pretrain or finetune run")
    drill.add_argument("--kills", type=int, default=2, help="how many times a worker is killed (default: 2)")
    drill.add_argument("--hang", type=int, default=0, help="how many times one is stopped, as if it hung (default: 0)")
    _json(drill)
    drill.set_defaults(call=commands.run_drill)


def _merge(known: Any) -> None:
    merge = known.add_parser("merge", help="take an adapter into its base's weights, or several at once, by weights")
    merge.add_argument(
        "model", help="the base; without adapters: a run, whose adapter goes into the base it was trained on"
    )
    merge.add_argument(
        "adapters", nargs="*", metavar="ADAPTER[=WEIGHT]", help="PEFT directories, or runs that left one"
    )
    merge.add_argument("--output", required=True, metavar="FOLDER", help="a new folder")
    merge.add_argument(
        "--method", default="cat", choices=METHODS, help="how several become one (default: cat, the exact weighted sum)"
    )
    merge.add_argument("--density", type=float, help="ties, dare: the share of the values that is kept")
    merge.add_argument("--seed", type=int, default=0, help="of what dare drops (default: 0)")
    merge.add_argument("--adapter", action="store_true", help="leave one adapter (a PEFT directory) instead of a model")
    merge.set_defaults(call=commands.run_merge)


def _unmerge(known: Any) -> None:
    unmerge = known.add_parser("unmerge", help="take a merged adapter out of a model again")
    unmerge.add_argument("model", help="the merged model: a Hugging Face directory or a run")
    unmerge.add_argument("adapter", help="what was merged into it: a PEFT directory, or a run that left one")
    unmerge.add_argument("--output", required=True, metavar="FOLDER", help="a new folder")
    unmerge.set_defaults(call=commands.run_unmerge)


# --- the rest --------------------------------------------------------------------------------------------------------


def _chat(known: Any) -> None:
    chat = known.add_parser("chat", help="talk to a model folder or to a running endpoint")
    chat.add_argument("target", help="artifact folder, model folder, or URL such as http://127.0.0.1:8000")
    chat.add_argument("--key", help="API key of the endpoint (or set MANTA_API_KEY)")
    chat.add_argument("--model", help="the model's name, where an endpoint serves several")
    chat.add_argument("--system", help="system prompt")
    chat.add_argument("--max-tokens", type=int, default=256, help="longest answer, in tokens (default: 256)")
    chat.add_argument("--temperature", type=float, default=0.0, help="0 always takes the likeliest token (default)")
    chat.set_defaults(call=commands.run_chat)


def _bench_serve(known: Any) -> None:
    bench = known.add_parser("bench-serve", help="put load on an OpenAI-compatible endpoint, tell what its clients see")
    bench.add_argument("url", help="the endpoint, e.g. http://127.0.0.1:8000")
    bench.add_argument("--model", help="the model's name (default: the first that is listed)")
    bench.add_argument("--key", help="API key of the endpoint (or set MANTA_API_KEY)")
    bench.add_argument("--requests", type=int, default=100, help="how many in all (default: 100)")
    arrival = bench.add_mutually_exclusive_group(required=True)
    arrival.add_argument("--rate", type=float, help="open loop: requests a second, at random, waiting for no answer")
    arrival.add_argument("--concurrency", type=int, help="closed loop: so many clients, each waits for its answer")
    bench.add_argument("--seed", type=int, default=0, help="of arrivals and generated prompts (default: 0)")
    said = bench.add_mutually_exclusive_group()
    said.add_argument("--prompt-tokens", type=int, default=128, help="length of generated prompts (default: 128)")
    said.add_argument("--prompts", metavar="FILE", help="own prompts: a line each, or .jsonl with prompt or messages")
    bench.add_argument("--new-tokens", type=int, default=64, help="longest answer, in tokens (default: 64)")
    bench.add_argument("--ignore-eos", action="store_true", help="exactly that long (vLLM and its like)")
    bench.add_argument("--api", choices=("chat", "completions"), default="chat", help="which route (default: chat)")
    bench.add_argument("--timeout", type=float, default=300, help="of one request, in seconds (default: 300)")
    bench.add_argument("--ttft-ms", type=float, help="target for the first token: adds the goodput")
    bench.add_argument("--tpot-ms", type=float, help="target for the time per output token: adds the goodput")
    _json(bench)
    bench.set_defaults(call=commands.run_bench_serve)


def _keys(known: Any) -> None:
    what = "API keys of an endpoint: who may ask, which models, how much"
    actions = known.add_parser("keys", help=what, description=what).add_subparsers(
        dest="action", required=True, metavar="ACTION"
    )
    create = actions.add_parser("create", help="add a key; it is printed once and kept nowhere")
    create.add_argument("--name", required=True, metavar="WHO", help="whose key it is")
    create.add_argument(
        "--model", nargs="+", action="extend", default=[], metavar="M", help="models it may ask (default: all)"
    )
    create.add_argument("--requests-per-minute", type=int, metavar="N", help="instead of serve.requests_per_minute")
    create.add_argument("--tokens-per-minute", type=int, metavar="N", help="instead of serve.tokens_per_minute")
    create.add_argument("--days", type=int, metavar="N", help="how long it is good (default: until it is revoked)")
    revoke = actions.add_parser("revoke", help="take a key out; running endpoints refuse it within two seconds")
    revoke.add_argument("id", metavar="ID", help="its id, from `manta keys list`")
    for action in (create, actions.add_parser("list", help="who has a key; no key is shown"), revoke):
        action.add_argument("--file", required=True, metavar="F", help="serve.keys_file: a path, or s3://...")
        _json(action)
        action.set_defaults(call=commands.run_keys)


def _doctor(known: Any) -> None:
    doctor = known.add_parser("doctor", help="what this machine and cluster can do, and what is missing")
    doctor.add_argument("--address", help="also check the cluster at this Ray address")
    _json(doctor)
    doctor.set_defaults(call=commands.run_doctor)


def _schema(known: Any) -> None:
    schema = known.add_parser("schema", help="JSON Schema of a kind of recipe, for editors")
    schema.add_argument("kind", help="prepare, pretrain, finetune, tune, compress, evaluate, serve or pipeline")
    schema.set_defaults(call=commands.run_schema)


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="one JSON object per line on stdout")
