"""What each command of `manta` does: load, call, print; no logic. Everything heavy is imported by the command that needs it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from manta.errors import EXIT_DONE, EXIT_FAILED, InputError


def run_stage(args: argparse.Namespace) -> int:
    if getattr(args, "best_of", None) is not None:
        return _best_of(args)
    from manta import pipeline, recipe, stage

    loaded = (
        _few_words(args)
        if getattr(args, "model", None)
        else recipe.load(args.recipe, args.overrides, kind=args.command)
    )
    if args.dry_run:
        _dry_run([loaded], args.json)
        shown = getattr(loaded, "first", loaded)  # of a sweep: what a trial is before the search changes anything
        return _preview(shown, args.json) if shown.kind == "finetune" else EXIT_DONE
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
    if args.yaml:
        from serving.config import serve_yaml

        print(serve_yaml(loaded), end="")
        return EXIT_DONE
    if args.detach or args.update:
        print((run.update if args.update else run.detach)(loaded, _progress(args)))
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


def run_merge(args: argparse.Namespace) -> int:
    from manta import adapters

    print(adapters.merge(args.model, args.adapters, args.output, args.method, args.density, args.seed, args.adapter))
    return EXIT_DONE


def run_unmerge(args: argparse.Namespace) -> int:
    from manta import adapters

    print(adapters.unmerge(args.model, args.adapter, args.output))
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


def run_bench_serve(args: argparse.Namespace) -> int:
    from serving.bench import figures, options, run

    names = [field.name for field in dataclasses.fields(options.Options)]
    given = {name: getattr(args, name) for name in names}
    found = run.bench(options.Options(**given | {"key": args.key or os.environ.get("MANTA_API_KEY")}), _progress(args))
    print(json.dumps({"event": "figures", **found}) if args.json else figures.text(found))
    return EXIT_DONE if found["answered"] else EXIT_FAILED


def run_keys(args: argparse.Namespace) -> int:
    from serving.door import keys

    if args.action == "list":
        known = keys.read(args.file)
        shown = [key.model_dump(mode="json", exclude={"hash"}) for key in known]
        print("\n".join(map(json.dumps, shown)) if args.json else keys.table(known))
        return EXIT_DONE
    if args.action == "revoke":
        gone = keys.revoke(args.file, args.id)
        said = {"event": "revoked", "id": gone.id, "name": gone.name}
        print(json.dumps(said) if args.json else f"{gone.id} ({gone.name}) is revoked")
        return EXIT_DONE
    made, secret = keys.create(
        args.file, args.name, args.model, args.requests_per_minute, args.tokens_per_minute, args.days
    )
    if args.json:
        print(json.dumps({"event": "key", "id": made.id, "name": made.name, "key": secret}))
        return EXIT_DONE
    print(secret)
    print(f"{made.id} ({made.name}) is in {args.file}; the key above is shown this once only", file=sys.stderr)
    return EXIT_DONE


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


def _few_words(args: argparse.Namespace) -> Any:
    """The recipe of `--model` and what stands beside it, which is written down and told with its reasons."""
    from manta.quick import compressing, form

    if args.command == "compress":
        wish = compressing.Words(args.model, args.hardware, args.target, args.data, args.overrides)
        made = compressing.make(wish, args.replace)
    else:
        words = form.Words(
            args.command, args.model, args.data, args.task, getattr(args, "validation", None), args.overrides
        )
        made = form.make(words, args.replace)
    if not args.dry_run:
        made.write()
    if args.json:
        print(json.dumps({"event": "choices", **made.as_json()}), flush=True)
    else:
        print(made.shown(written=not args.dry_run), flush=True)
    return made.recipe


def _best_of(args: argparse.Namespace) -> int:
    from manta.tune import best

    found = best.best_of(args.best_of, 1 if args.rank is None else args.rank)
    if args.json:
        print(json.dumps({"event": "trial", **found.as_json()}, ensure_ascii=False))
    else:
        print(found.recipe() if args.recipe_only else best.text(found), end="" if args.recipe_only else "\n")
    return EXIT_DONE


def _preview(loaded: Any, as_json: bool) -> int:
    from manta.tasks.examples import preview

    said = preview.show(loaded)
    print(json.dumps({"event": "preview", "lines": said}) if as_json else "\n" + "\n".join(said))
    return EXIT_DONE


def _print_plan(figures: dict[str, Any], as_json: bool) -> None:
    from manta import plan

    print(json.dumps({"event": "plan", **figures}) if as_json else plan.text(figures))
