"""datatrove's filters as its users configure them: DOCUMENTS.jsonl FLAGS.json [FILTER ...]. One process, English.

FLAGS.json gets, for each document in order, null (kept) or `filter.reason`. datatrove and spacy come with the extra `bench`.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from datatrove.data import Document
from datatrove.pipeline import filters
from datatrove.utils.logging import logger
from datatrove.utils.text import split_into_sentences, split_into_words

# The thresholds are the defaults of both. Two rules of C4's code have no setting here: citations, and words of more
# than a thousand characters.
FILTERS: dict[str, Any] = {
    "gopher_quality": filters.GopherQualityFilter,
    "gopher_repetition": filters.GopherRepetitionFilter,
    "c4_quality": lambda: filters.C4QualityFilter(remove_citations=False, max_word_length=-1),
    "fineweb_quality": filters.FineWebQualityFilter,
}


def first_reason(document: Document, chain: dict[str, Any]) -> str | None:
    """The filter that drops the document, with its reason; filters behind it do not see the document."""
    for name, one in chain.items():
        answer = one.filter(document)
        if answer is not True:
            return f"{name}.{answer[1] if isinstance(answer, tuple) else 'dropped'}"
    return None


def main() -> None:
    source, target, *names = sys.argv[1:]
    logger.remove()
    chain = {name: FILTERS[name]() for name in names or FILTERS}
    with Path(source).open(encoding="utf-8") as lines:
        documents = [
            Document(text=json.loads(line)["text"], id=str(number), metadata={}) for number, line in enumerate(lines)
        ]
    split_into_words("Loads the tokenizer.", "eng"), split_into_sentences("Loads the tokenizer.", "eng")
    wall, cpu = time.perf_counter(), time.process_time()
    flags = [first_reason(document, chain) for document in documents]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    Path(target).write_text(json.dumps(flags))
    print(json.dumps({"documents": len(flags), "kept": flags.count(None), "cpu_s": cpu, "wall_s": wall}))


if __name__ == "__main__":
    main()
