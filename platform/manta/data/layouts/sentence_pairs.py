"""Pairs of text for next-sentence prediction, as BERT was trained on."""

from __future__ import annotations

import numpy as np

from manta.data.cleaning.quality import SENTENCE
from manta.data.layouts.rows import Documents, Rows
from manta.errors import InputError
from manta.sections.layout import SentencePairs

SPECIAL = 3  # [CLS] A [SEP] B [SEP]
IS_NEXT, IS_RANDOM = 0, 1  # as transformers' models for next-sentence prediction take them

Sentences = list[list[int]]


def lay(documents: Documents, settings: SentencePairs) -> Rows:
    """[CLS] A [SEP] B [SEP] rows (Devlin et al. 2019, arXiv:1810.04805, appendix A.2), of whole sentences where they fit.

    Columns: `input_ids`, `token_type_ids` (1 for B), `attention_mask` (0 for padding), all int32 (rows, seq_len), and
    `next_sentence_label`, int32 (rows,): 0 where B follows A, 1 where it is of another document. A lone sentence always
    gets a B of another document; without another document it is left over. Raises InputError if the tokenizer has no
    tokens to stand for [CLS], [SEP] and padding, or seq_len leaves no room for a pair.
    """
    known, seq_len = documents.known, documents.seq_len
    if known.bos_id is None or known.pad_id is None:
        raise InputError(
            "data.layout.kind = 'sentence_pairs': the tokenizer has no [CLS] (or begin-of-text) or no padding token: set "
            "tokenizer.type=wordpiece, or name a tokenizer.source that has them"
        )
    texts = [[documents.encode(sentence) for sentence in split(text)] for text in documents.texts]
    texts = [[ids for ids in sentences if ids] for sentences in texts]
    maker = _Maker(texts, seq_len - SPECIAL, settings, np.random.default_rng(documents.seed))
    pairs = [pair for number in range(len(texts)) for pair in maker.pairs(number)]
    ids = np.full((len(pairs), seq_len), known.pad_id, dtype=np.int32)
    types, mask = np.zeros_like(ids), np.zeros_like(ids)
    for row, (first, second, _) in enumerate(pairs):
        middle, end = len(first) + 2, len(first) + len(second) + SPECIAL
        ids[row, :end] = [known.bos_id, *first, known.eos_id, *second, known.eos_id]
        types[row, middle:end] = 1
        mask[row, :end] = 1
    columns = {"input_ids": ids, "token_type_ids": types, "attention_mask": mask}
    columns["next_sentence_label"] = np.array([label for *_, label in pairs], dtype=np.int32)
    tokens = sum(len(ids) for sentences in texts for ids in sentences)
    return Rows(columns, tokens, padding=int((mask == 0).sum()), left_over=maker.left_over, documents_cut=maker.cut)


def split(text: str) -> list[str]:
    """The sentences of a text, in order; a line's end ends one too."""
    found = []
    for line in text.splitlines():
        at = 0
        for end in [match.end() for match in SENTENCE.finditer(line)] + [len(line)]:
            if sentence := line[at:end].strip():
                found.append(sentence)
            at = end
    return found


class _Maker:
    """Makes the pairs of one document after the other, and counts what of them stands in no pair."""

    def __init__(self, texts: list[Sentences], room: int, settings: SentencePairs, draw: np.random.Generator):
        if room < 2:
            raise InputError(f"data.seq_len = {room + SPECIAL} leaves no room for a pair of sentences: raise it")
        self.texts, self.room, self.settings, self.draw = texts, room, settings, draw
        # Those another document's B can be drawn from.
        self.donors = [number for number, sentences in enumerate(texts) if sentences]
        self.left_over = self.cut = 0

    def pairs(self, number: int) -> list[tuple[list[int], list[int], int]]:
        """(A, B, label) of one document."""
        sentences, made, at = self.texts[number], [], 0
        lone = len(self.donors) < 2
        while at < len(sentences):
            target = self._target()
            chunk = _until(sentences[at:], target)
            middle = int(self.draw.integers(1, len(chunk))) if len(chunk) > 1 else 1
            rest = chunk[middle:]
            first = _flat(chunk[:middle])
            if not lone and (not rest or self.draw.random() < self.settings.random_next):
                second, label = self._other(number, target - len(first)), IS_RANDOM
                at += middle  # what was set aside for B comes again
                own = len(first)
            elif rest:
                second, label = _flat(rest), IS_NEXT
                at += len(chunk)
                own = len(first) + len(second)
            else:
                self.left_over += len(first)
                at += 1
                continue
            first, second = self._fitted(first, second)
            self.left_over += own - len(first) - (len(second) if label == IS_NEXT else 0)
            made.append((first, second, label))
        self.cut += len(made) > 1
        return made

    def _target(self) -> int:
        """How many tokens the next pair aims for: mostly all there is room for, so that little is padded."""
        if self.draw.random() >= self.settings.short_rows:
            return self.room
        return int(self.draw.integers(2, self.room + 1))

    def _other(self, number: int, target: int) -> list[int]:
        """Sentences of another document, from a random one on."""
        place = int(self.draw.integers(len(self.donors) - 1))
        own = self.donors.index(number)
        sentences = self.texts[self.donors[place + (place >= own)]]
        drawn = _flat(_until(sentences[int(self.draw.integers(len(sentences))) :], target))
        # It gives way to the document's own text, unless that leaves it nothing.
        return drawn[:target] if target > 0 else drawn

    def _fitted(self, first: list[int], second: list[int]) -> tuple[list[int], list[int]]:
        """Both, cut to the room there is: the longer one gives way, at either end, as a coin falls for each token."""
        surplus = len(first) + len(second) - self.room
        if surplus <= 0:
            return first, second
        # Taken from the longer until both are equal, from then on by turns.
        from_first = min(surplus, max(0, len(first) - len(second)))
        from_second = min(surplus, max(0, len(second) - len(first)))
        rest = surplus - from_first - from_second
        from_first, from_second = from_first + rest // 2, from_second + rest - rest // 2
        return self._cut(first, from_first), self._cut(second, from_second)

    def _cut(self, ids: list[int], surplus: int) -> list[int]:
        front = int(self.draw.binomial(surplus, 0.5))
        return ids[front : len(ids) - (surplus - front)]


def _until(sentences: Sentences, target: int) -> Sentences:
    """The first sentences that together have at most `target` tokens; at least one, which may have more."""
    total = 0
    for count, ids in enumerate(sentences):
        total += len(ids)
        if count and total > target:
            return sentences[:count]
    return sentences


def _flat(sentences: Sentences) -> list[int]:
    return [token for ids in sentences for token in ids]
