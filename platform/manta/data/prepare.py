"""The `prepare` stage: documents in; a tokenizer, packed token rows and supervised examples out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from manta import cluster
from manta.artifact import Draft, Resolved
from manta.data import augment, cleaning, sources, tokenizer
from manta.errors import InputError, Problem
from manta.progress import Progress
from manta.schema import PrepareRecipe

DONE = "work/done.json"


def inventory(recipe: PrepareRecipe) -> str:
    """SHA-256 of the listing of the sources (names, sizes, times) and of what else the machine brings: a chat template's
    file, the installed WordNet.

    Raises InputError when a source matches no file, or the template's file is missing.
    """
    listing = sources.inventory(sources.list_files(recipe.data.sources))
    more = [augment.inventory(recipe.data.augment)]
    template = recipe.tokenizer.chat_template
    if template is not None and (text := tokenizer.template(template)) != template:
        more.append(text)
    return hashlib.sha256("\n".join([listing, *more]).encode()).hexdigest() if any(more) else listing


def problems(recipe: PrepareRecipe) -> Iterator[Problem]:
    """Steps whose limits contradict each other, or that lack what they need."""
    for number, step in enumerate(recipe.data.steps):
        where = f"data.steps.{number}"
        for low, high in cleaning.BOUNDS:
            least, most = getattr(step, low, None), getattr(step, high, None)
            if least is not None and most is not None and least > most:
                yield Problem(f"{where}.{low}", least, f"exceeds {high} = {most}: no text fits both")
        if step.step == "decontaminate" and recipe.data.heldout is None:
            yield Problem("data.heldout", None, f"{where} needs the texts to look for: name a file or an artifact")
    if recipe.data.heldout is not None and all(step.step != "decontaminate" for step in recipe.data.steps):
        yield Problem(
            "data.heldout", recipe.data.heldout, "no step reads it: add `- step: decontaminate` to data.steps"
        )
    weights = [source.weight for source in recipe.data.sources]
    if any(weights) and not all(weights):
        missing = weights.index(None)
        yield Problem(
            f"data.sources.{missing}.weight", None, "other sources have a weight: give one to each, or to none"
        )
    paths = [source.path for source in recipe.data.sources]
    if any(weights) and len(set(paths)) < len(paths):
        yield Problem("data.sources", sorted({p for p in paths if paths.count(p) > 1}), "weights need different paths")
    if recipe.data.max_repeats != 1.0 and not any(weights):
        yield Problem(
            "data.max_repeats", recipe.data.max_repeats, "only sources with a weight are repeated: leave it out"
        )
    yield from augment.problems(recipe.data.augment)
    yield from _layout_problems(recipe)
    yield from tokenizer.problems(recipe.tokenizer)


def _layout_problems(recipe: PrepareRecipe) -> Iterator[Problem]:
    """Layouts that need special tokens which a tokenizer of the recipe's type will not have."""
    kind, wanted = recipe.data.layout.kind, recipe.tokenizer
    if wanted.source is not None:
        return  # what it has is known when it is read
    if kind == "sentence_pairs" and wanted.type != "wordpiece":
        yield Problem("data.layout.kind", kind, f"a {wanted.type} tokenizer has no [CLS]: set tokenizer.type=wordpiece")
    if kind == "denoising" and not wanted.sentinels:
        remedy = "set tokenizer.type=unigram tokenizer.sentinels=100"
        yield Problem("data.layout.kind", kind, f"spans are replaced by sentinels, of which there are none: {remedy}")


def check(recipe: PrepareRecipe, inputs: Mapping[str, Resolved]) -> None:
    """Raise InputError for settings that contradict each other or a tokenizer that cannot be used."""
    data = recipe.data
    if data.shard_tokens < data.seq_len:
        raise InputError(
            f"data.shard_tokens = {data.shard_tokens} holds no row of data.seq_len = {data.seq_len}: raise it"
        )
    if source := inputs.get("tokenizer.source"):
        tokenizer.facts(tokenizer.find(source.path))


def run(recipe: PrepareRecipe, draft: Draft, progress: Progress) -> dict[str, Any]:
    """Read, clean, deduplicate, train the tokenizer, tokenise and pack. Each step skips what an earlier attempt finished."""
    folder = draft.folder
    if folder.exists(DONE):
        return _finished(draft)
    cluster.connect(recipe.resources.address, recipe.resources.cpus)
    at_once = recipe.resources.cpus if cluster.is_local() else cluster.total_cpus()

    from manta.data import dedup, enlarge, refine, tokenise  # not before: they load numpy

    cleaned = refine.refine(recipe, draft.folder, at_once, progress)
    corpus, figures = cleaned.corpus, cleaned.figures
    larger = corpus
    if recipe.data.augment:
        larger, added = enlarge.enlarge(recipe, draft, corpus, at_once, progress)
        figures |= added
    figures |= tokenise.tokenise(recipe, draft, larger, at_once, progress)
    facts = {"fingerprint": corpus.fingerprint(), "content": dedup.content_hash(corpus.digests[corpus.kept])}
    folder.write_text(DONE, json.dumps({"figures": figures, "documents": facts}))
    return _finished(draft)


def _finished(draft: Draft) -> dict[str, Any]:
    """Record the documents, drop the intermediate files and return the figures. Safe to repeat after a kill."""
    done = json.loads(draft.folder.read_text(DONE))
    where = ", ".join(source["path"] for source in draft.manifest["recipe"]["data"]["sources"])
    draft.add_input("documents", kind="documents", ref=where, **done["documents"])
    for name in ("cleaned", "corpus", "augmented", "quarantine", "packed", "examples", "half-written"):
        if draft.folder.exists(f"work/{name}"):
            draft.folder.clear(f"work/{name}")
    return dict(done["figures"])
