"""translation: a text in one language, and the same in another."""

from __future__ import annotations

from typing import Any

from manta.sections.tasks import TranslationTask
from manta.tasks import translation
from serving.tasks import passes, written
from serving.tasks.asked import Wrong
from serving.tasks.model import UNBOUNDED, Model, Row
from serving.tasks.summarization import shaped
from serving.tasks.written import item

__all__ = ["COMPUTE", "Parameters", "answer", "item", "probe", "rows", "shaped"]

COMPUTE = passes.answers


class Parameters(written.Parameters):
    src_lang: str | None = None  # this and the next as the model reads them: English
    tgt_lang: str | None = None


def probe(model: Model) -> dict[str, Any]:
    """A request that any such model can answer."""
    languages = {} if model.taught else {"src_lang": "English", "tgt_lang": "German"}
    return {"inputs": "a text", "parameters": {"max_new_tokens": 1, **languages}}


def rows(found: str, where: str, parameters: Parameters, model: Model) -> list[Row]:
    """The one row of a text."""
    return written.rows(found, where, parameters, model, task(parameters, model), translation)


def answer(found: str, made: list[Row], outputs: list[Any], parameters: Parameters, model: Model) -> Any:
    """{"translation_text"}."""
    del found, made, parameters
    return {"translation_text": written.text(outputs, model, translation)}


def task(parameters: Parameters, model: Model) -> TranslationTask:
    """What the model was tuned with; of a directory the languages that the request names, or that it knows itself. Raises Wrong."""
    given = {"src_lang": parameters.src_lang, "tgt_lang": parameters.tgt_lang}
    if model.taught:
        settings = TranslationTask(**model.taught)
        for name, known in zip(given, (settings.source_language, settings.target_language), strict=True):
            if given[name] not in (None, known):
                raise Wrong(
                    f"parameters.{name}", f"`parameters.{name}` = {given[name]!r}: this model knows {known!r} alone."
                )
        return settings
    if model.config.get("model_type") not in UNBOUNDED:
        return TranslationTask(name="translation", source_language="any", target_language="any", prefix="")
    for name, language in given.items():
        if not language:
            raise Wrong(
                f"parameters.{name}",
                f"`parameters.{name}` is missing: name the language as T5 reads it, such as English.",
            )
    source, target = str(parameters.src_lang), str(parameters.tgt_lang)
    made = TranslationTask(name="translation", source_language=source, target_language=target)
    return made.model_copy(update={"prefix": translation.prefix(made)})
