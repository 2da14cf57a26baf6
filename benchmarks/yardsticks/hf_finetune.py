"""The Hugging Face Trainer tuning a model for a task as its example scripts do: fp32, padded batches of like length.

TASK MODEL TRAIN.jsonl OUT STEPS ROWS LR MAX_TOKENS THREADS SEED; prints real tokens per second (padding left out).
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from bare_loop import peak_mib

WARM_STEPS = 3
IGNORED = -100
Example = dict[str, Any]


class Rows(torch.utils.data.Dataset):
    """Features in memory, as the Trainer wants them."""

    def __init__(self, features: list[Example]):
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> Example:
        return self.features[index]


class Clock(transformers.TrainerCallback):
    """The seconds of every step, from begin to begin, so that fetching data is in it."""

    def __init__(self) -> None:
        self.began: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.began.append(time.perf_counter())


class Counting:
    """A collator that remembers how many real tokens each batch has."""

    def __init__(self, collate: Callable[[list[Example]], Any]):
        self.collate, self.tokens = collate, list[int]()

    def __call__(self, features: list[Example]) -> Any:
        self.tokens.append(sum(len(feature["input_ids"]) for feature in features))
        return self.collate(features)


def classification(path: str, examples: list[Example], limit: int) -> tuple[Any, Any, list[Example], Any]:
    """As run_classification.py: (model, tokenizer, features, collator)."""
    names = sorted({example["label"] for example in examples})
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32, **_ids(names))
    texts = tokenizer([example["text"] for example in examples], truncation=True, max_length=limit)
    features = [
        {**{name: values[at] for name, values in texts.items()}, "labels": names.index(example["label"])}
        for at, example in enumerate(examples)
    ]
    return model, tokenizer, features, transformers.DataCollatorWithPadding(tokenizer)


def tagging(path: str, examples: list[Example], limit: int) -> tuple[Any, Any, list[Example], Any]:
    """As run_ner.py: a word's first piece has its tag."""
    names = sorted({tag for example in examples for tag in example["tags"]})
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForTokenClassification.from_pretrained(path, dtype=torch.float32, **_ids(names))
    features = []
    for example in examples:
        found = tokenizer(example["tokens"], is_split_into_words=True, truncation=True, max_length=limit)
        labels, before = [], None
        for word in found.word_ids():
            labels.append(IGNORED if word in (None, before) else names.index(example["tags"][word]))
            before = word
        features.append({**found, "labels": labels})
    return model, tokenizer, features, transformers.DataCollatorForTokenClassification(tokenizer)


def chat(path: str, examples: list[Example], limit: int, begin: str = "") -> tuple[Any, Any, list[Example], Any]:
    """Conversations through the chat template, of which the answer is learnt."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    features = []
    for example in examples:
        asked = [{"role": "user", "content": begin + example["input"]}]
        whole = [*asked, {"role": "assistant", "content": example["target"]}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        ids = tokenizer.apply_chat_template(whole, return_dict=False)[:limit]
        labels = [IGNORED] * min(len(prompt), len(ids)) + ids[len(prompt) :]
        features.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return model, tokenizer, features, transformers.DataCollatorForSeq2Seq(tokenizer)


def summarisation(path: str, examples: list[Example], limit: int) -> tuple[Any, Any, list[Example], Any]:
    """A chat that begins with what is to be done."""
    from manta.tasks.summarisation import INSTRUCTION

    return chat(path, examples, limit, INSTRUCTION)


def translation(path: str, examples: list[Example], limit: int) -> tuple[Any, Any, list[Example], Any]:
    """As run_translation.py, with T5's words before the text."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(path, dtype=torch.float32)
    features = []
    for example in examples:
        ids, labels = source_ids(tokenizer, example["input"], limit), ended(tokenizer, example["target"], limit)
        features.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    return model, tokenizer, features, transformers.DataCollatorForSeq2Seq(tokenizer, model)


def source_ids(tokenizer: Any, text: str, limit: int) -> list[int]:
    """What the encoder reads."""
    return ended(tokenizer, f"translate English to German: {text}", limit)


def ended(tokenizer: Any, text: str, limit: int) -> list[int]:
    """Token ids that end with the end of text, which T5's own tokenizer sets itself."""
    ids: list[int] = tokenizer(text, truncation=True, max_length=limit)["input_ids"]
    return ids if ids[-1:] == [tokenizer.eos_token_id] else [*ids[: limit - 1], tokenizer.eos_token_id]


TASKS = {
    "sentiment": classification,
    "ner": tagging,
    "chat": chat,
    "summarisation": summarisation,
    "translation": translation,
}


def _ids(names: list[str]) -> dict[str, Any]:
    return {"id2label": dict(enumerate(names)), "label2id": {name: at for at, name in enumerate(names)}}


def main() -> None:
    task, path, file, out = sys.argv[1:5]
    steps, rows, lr, limit, threads, seed = map(float, sys.argv[5:11])
    torch.set_num_threads(int(threads))
    transformers.set_seed(int(seed))
    examples = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    model, tokenizer, features, collate = TASKS[task](path, examples, int(limit))
    clock, counting = Clock(), Counting(collate)
    with tempfile.TemporaryDirectory() as scratch:
        apart = task == "translation"
        kind = transformers.Seq2SeqTrainingArguments if apart else transformers.TrainingArguments
        arguments = kind(
            output_dir=scratch, max_steps=int(steps), per_device_train_batch_size=int(rows), learning_rate=lr, use_cpu=True,
            train_sampling_strategy="group_by_length", logging_steps=int(steps), save_strategy="no", report_to="none",
            disable_tqdm=True, seed=int(seed), dataloader_pin_memory=False,
        )  # fmt: skip
        trainer = (transformers.Seq2SeqTrainer if apart else transformers.Trainer)(
            model, arguments, train_dataset=Rows(features), data_collator=counting, callbacks=[clock],
            processing_class=tokenizer,
        )  # fmt: skip
        trainer.train()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    seconds = clock.began[-1] - clock.began[WARM_STEPS]  # the last step has no begin behind it
    speed = sum(counting.tokens[WARM_STEPS : len(clock.began) - 1]) / seconds
    print(json.dumps({"tokens_per_s": speed, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
