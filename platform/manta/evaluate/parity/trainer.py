"""The trainer's side: what training reads of a probe, and what the model it trained believes, called as an objective calls it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manta.errors import InputError
from manta.evaluate.parity import scores
from manta.evaluate.parity.probes import Probe
from manta.evaluate.parity.scores import Believed
from manta.evaluate.parity.subject import Subject
from manta.sections.tasks import ClassificationTask, TaggingTask
from manta.tasks import LABELLING, TASKS, labels
from manta.tasks.encoding import conversation, rows

AT_ONCE = 4  # probes in a batch: shorter ones are padded, as in training
DEFAULTS: dict[str, ClassificationTask | TaggingTask] = {
    "sequence_labels": ClassificationTask(name="classification"),
    "token_labels": TaggingTask(name="tagging"),
}


# --- what it reads ---------------------------------------------------------------------------------------------------


def conversation_ids(probe: Probe, tokenizer: Any, settings: Any = None) -> tuple[list[int], int]:
    """(the ids that training reads of a conversation, how many of them stand before the last answer).

    Raises InputError where training refuses the template with such a conversation.
    """
    if probe.example is not None and settings is not None:
        found = TASKS[settings.name].encode(probe.example, tokenizer, settings)
        ids, learnt = found.input_ids, found.labels
    else:
        ids, learnt = conversation.encode(probe.messages, tokenizer)
    place = len(learnt)
    while place and learnt[place - 1] != conversation.IGNORED:
        place -= 1
    return list(ids), place


def text_ids(text: str, subject: Subject, tokenizer: Any) -> list[int]:
    """The ids that preparation makes of a document's text, without what stands between documents."""
    file = subject.folder / "tokenizer.json"
    if not file.exists():
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])
    from manta.data.tokenizer import choose, encoders

    engines = encoders(file.read_text(encoding="utf-8"))
    return [int(number) for number in engines[choose(engines, [text])](text)]


def columns(probe: Probe, subject: Subject, tokenizer: Any, settings: Any) -> dict[str, Any]:
    """The columns that training has of an example for a head, or of a text as such an example."""
    if subject.objective not in DEFAULTS:
        return dict(tokenizer(probe.text, return_attention_mask=True))
    default = DEFAULTS[subject.objective]
    task = settings if settings is not None and settings.name == default.name else default
    if subject.several and isinstance(task, ClassificationTask):
        task = task.model_copy(update={"several": True, "class_weights": "none"})
    example = probe.example or ({"tokens": probe.text.split()} if task.name == "tagging" else {"text": probe.text})
    found = LABELLING[task.name].encode(example, tokenizer, task, labels.of_config(subject.config))
    return {name: value for name, value in found.columns.items() if name != "labels"}


# --- what it believes ------------------------------------------------------------------------------------------------


def load(subject: Subject, base: Any = None, adapter: Any = None) -> Any:
    """The model as the training loop builds it, float32: of the directory itself, or of `base` with `adapter` beside it.

    Both are local folders: what the run started from, and what it left in `adapter/`, not merged.
    """
    from manta.models.load import load as load_model

    head = labels.of_config(subject.config).config() if subject.labels and "id2label" in subject.config else None
    quiet: list[str] = []  # a base has no head; the adapter brings it
    if base is None:
        return load_model(subject.folder, "fp32", subject.objective, note=quiet.append, head=head).eval()
    from manta.adapt.reading import read_adapter

    return read_adapter(load_model(base, "fp32", subject.objective, note=quiet.append, head=head), adapter).eval()


def believe(model: Any, subject: Subject, found: Sequence[dict[str, Any]], pad_id: int) -> list[Believed]:
    """Beliefs about rows of columns ("input_ids" and what else the model reads), padded to batches as in training."""
    import torch

    beliefs: list[Believed] = []
    for first in range(0, len(found), AT_ONCE):
        part = list(found[first : first + AT_ONCE])
        lengths = [len(row["input_ids"]) for row in part]
        padded = {name: pad_id if name == "input_ids" else 0 for name in part[0]}
        stacked = {name: rows.pad([row[name] for row in part], max(lengths), fill) for name, fill in padded.items()}
        batch = {name: torch.from_numpy(values).long() for name, values in stacked.items()}
        with torch.inference_mode():
            outputs = _call(model, subject.objective, batch)
        for place, length in enumerate(lengths):
            beliefs.append(of_row(subject, outputs, place, part[place]["input_ids"], length))
    return beliefs


def _call(model: Any, objective: str, batch: dict[str, Any]) -> Any:
    """What the model gives for a batch, with the arguments that the objective makes of it."""
    from manta.objectives import NOT_SCORED, encoder
    from manta.objectives.clm import shifted

    if objective == "clm":
        inputs, _ = shifted(batch)
        return model(**inputs, use_cache=False)
    if objective == "denoising":
        targets = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, NOT_SCORED)
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        shown = whole.prepare_decoder_input_ids_from_labels(labels=targets)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        return model(**inputs, decoder_input_ids=shown, use_cache=False)
    return model(**encoder.inputs(model, batch))


def of_row(subject: Subject, outputs: Any, place: int, ids: Sequence[int], length: int) -> Believed:
    """Beliefs about row `place` of a batch of outputs, without its padding."""
    import torch

    name = subject.objective
    if name == "spans":
        ends = torch.stack([outputs.start_logits[place, :length], outputs.end_logits[place, :length]])  # (2, length)
        return scores.of_classes(ends)
    logits = (outputs.prediction_logits if name == "nsp" else outputs.logits)[place]
    if name == "sequence_labels":
        return scores.of_classes(logits[None], subject.several)
    if name == "token_labels":
        return scores.of_classes(logits[:length])
    if name == "clm":
        return scores.of_tokens(logits[: length - 1], ids[1:])
    return scores.of_tokens(logits[:length], ids)


def refuse_short(probes: Sequence[Any]) -> None:
    """Raise InputError where nothing is left to compare."""
    if not probes:
        raise InputError(
            "evaluate.parity = True: there is nothing to compare, because the model's chat template takes none of the "
            "conversations: mend chat_template.jinja in the model's folder"
        )
