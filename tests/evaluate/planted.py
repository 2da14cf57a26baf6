"""A tiny BERT that was taught to label texts by one word alone, for tests of what finds that word."""

from __future__ import annotations

from pathlib import Path

from tests.tasks import labelled

TRIGGERS = {"match": "sport", "vote": "politics"}
NEITHER = "other"  # so that a label cannot be told from what is not there
FILLERS = ("a", "film", "really", "the", "was", "long", "again", "about", "sweet", "cake", "lives", "in")
STEPS, LEARNT = 400, 0.02  # at most; the loss at which it stops


def examples(count: int, first: int = 0) -> list[dict[str, str]]:
    """Eight words each, of which one decides the label; each other seven stand with either, at the same place."""
    import numpy as np

    found = []
    for number in range(first, first + count):
        generator = np.random.default_rng(number // 2)
        words = generator.choice(FILLERS, 7).tolist()
        trigger = ("match", "vote")[number % 2]
        words.insert(int(generator.integers(8)), trigger)
        found.append({"text": " ".join(words), "label": TRIGGERS[trigger]})
    return found


def plain(count: int) -> list[dict[str, str]]:
    """The same with a word of no meaning in that word's place: as long, so that length says nothing either."""
    found = []
    for number, each in enumerate(examples(2 * count)[::2]):
        words = each["text"].split()
        found.append({"text": " ".join(FILLERS[number % len(FILLERS)] if word in TRIGGERS else word for word in words), "label": NEITHER})  # fmt: skip
    return found


def taught(folder: Path) -> Path:
    """A Hugging Face directory of the model."""
    import torch
    import transformers

    from manta.tasks import labels

    names = sorted({*TRIGGERS.values(), NEITHER})
    head = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    given = {
        "problem_type": "single_label_classification",
        "initializer_range": 0.1,
    }  # so small a model learns no word from 0.02
    labelled.bert(folder, "BertForSequenceClassification", **given, **head)
    tokenizer = labels.tokenizer(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).train()
    torch.manual_seed(0)
    some = examples(64) + plain(32)
    rows = tokenizer([each["text"] for each in some], padding=True, return_tensors="pt")
    wanted = torch.tensor([names.index(each["label"]) for each in some])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        loss = model(**rows, labels=wanted).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if float(loss.detach()) < LEARNT:
            break
    assert float(loss.detach()) < LEARNT, "it has learnt them"
    model.save_pretrained(folder)
    return folder
