"""What a tuned model is worth, by Transformers' own classes whoever tuned it: TASK MODEL TEST.jsonl MAX_TOKENS THREADS.

Prints {"shares": [[numerator, denominator] of each example]}: the score is the quotient of their sums, times 100. Of
translation {"chrf": [...], "bleu": [...]}, the counts of each example that manta.tasks.scoring.ngrams makes both of.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from hf_finetune import source_ids

from manta.tasks import classification, tagging
from manta.tasks.scoring import ngrams
from manta.tasks.scoring.scores import rouge_l
from manta.tasks.summarisation import INSTRUCTION

AT_ONCE, NEW_TOKENS = 16, 40
Example = dict[str, Any]
Shares = list[tuple[float, float]]


def sentiment(path: str, examples: list[Example], limit: int) -> Shares:
    """Accuracy."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path, dtype=torch.float32).eval()
    said: list[str] = []
    for part in _parts(examples):
        given = tokenizer(
            [each["text"] for each in part], truncation=True, max_length=limit, padding=True, return_tensors="pt"
        )
        said += [model.config.id2label[int(place)] for place in model(**given).logits.argmax(-1)]
    return classification.shares(said, [example["label"] for example in examples])


def ner(path: str, examples: list[Example], limit: int) -> Shares:
    """F1 of whole names; words that are cut off are O."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForTokenClassification.from_pretrained(path, dtype=torch.float32).eval()
    said: list[list[str]] = []
    for part in _parts(examples):
        given = tokenizer(
            [each["tokens"] for each in part], is_split_into_words=True, truncation=True, max_length=limit, padding=True,
            return_tensors="pt",
        )  # fmt: skip
        best = model(**given).logits.argmax(-1)
        for row, each in enumerate(part):
            tags = ["O"] * len(each["tokens"])
            words = given.word_ids(row)
            for at, word in enumerate(words):
                if word is not None and word != words[at - 1]:
                    tags[word] = model.config.id2label[int(best[row, at])]
            said.append(tags)
    return tagging.shares(said, [example["tags"] for example in examples])


def chat(path: str, examples: list[Example], limit: int, begin: str = "") -> Shares:
    """Mean ROUGE-L F1 of what is answered, the likeliest word at each step."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path, padding_side="left")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    said: list[str] = []
    for part in _parts(examples):
        asked = [[{"role": "user", "content": begin + each["input"]}] for each in part]
        given = tokenizer.apply_chat_template(
            asked, add_generation_prompt=True, padding=True, truncation=True, max_length=limit, return_dict=True,
            return_tensors="pt",
        )  # fmt: skip
        found = model.generate(
            **given, do_sample=False, max_new_tokens=NEW_TOKENS, eos_token_id=end, pad_token_id=tokenizer.pad_token_id
        )
        answers = tokenizer.batch_decode(found[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
        said += [next((line.strip() for line in answer.splitlines() if line.strip()), "") for answer in answers]
    return [(rouge_l(answer, example["target"]), 1.0) for answer, example in zip(said, examples, strict=True)]


def summarisation(path: str, examples: list[Example], limit: int) -> Shares:
    return chat(path, examples, limit, INSTRUCTION)


def translation(path: str, examples: list[Example], limit: int) -> dict[str, list[list[float]]]:
    """The likeliest word at each step, read by sacrebleu's rules."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(path, dtype=torch.float32).eval()
    said: list[str] = []
    for part in _parts(examples):
        asked = [source_ids(tokenizer, each["input"], limit) for each in part]
        given = tokenizer.pad({"input_ids": asked}, return_tensors="pt")
        found = model.generate(**given, do_sample=False, num_beams=1, max_new_tokens=3 * NEW_TOKENS)
        said += [answer.strip() for answer in tokenizer.batch_decode(found, skip_special_tokens=True)]
    wanted = [example["target"] for example in examples]
    return {"chrf": ngrams.chrf_rows(said, wanted).tolist(), "bleu": ngrams.bleu_rows(said, wanted).tolist()}


TASKS = {"sentiment": sentiment, "ner": ner, "chat": chat, "summarisation": summarisation, "translation": translation}


def _parts(examples: list[Example]) -> list[list[Example]]:
    return [examples[at : at + AT_ONCE] for at in range(0, len(examples), AT_ONCE)]


def main() -> None:
    task, path, file, limit, threads = sys.argv[1:6]
    torch.set_num_threads(int(threads))
    examples = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    with torch.inference_mode():
        found = TASKS[task](path, examples, int(limit))
    print(json.dumps(found if isinstance(found, dict) else {"shares": found}))


if __name__ == "__main__":
    main()
