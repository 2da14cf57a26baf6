"""What a model is probed with: conversations, texts and rows, of the recipe's data and built in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from manta.artifact import Resolved
from manta.data.respell import respeller
from manta.data.sample import sample_documents
from manta.schema import EvaluateRecipe
from manta.storage import Folder
from manta.tasks import ANSWERING, TASKS, examples
from manta.tasks.encoding.conversation import Message

SPLIT = "validation"
EXAMPLES = 6  # of data.examples
ROWS = 4  # of data.shards
READABLE = ("classification", "tagging")  # tasks whose examples a plain tokenizer reads as well


class Probe(NamedTuple):
    """One thing to read. `messages` of a conversation, which ends with an answer; `text`; or `ids` of a row of shards.

    `example` is what a conversation was made from, where the task's own encoding trains on it.
    """

    name: str
    messages: tuple[Message, ...] = ()
    text: str = ""
    ids: tuple[int, ...] = ()
    example: dict[str, Any] | None = None


def _turns(*words: str, system: str | None = None) -> tuple[Message, ...]:
    """User and assistant by turns; the last word is the assistant's."""
    said = [{"role": ("user", "assistant")[place % 2], "content": word} for place, word in enumerate(words)]
    return (() if system is None else ({"role": "system", "content": system},)) + tuple(said)


# Where readers of conversations usually part: borders of turns, blanks, text that looks like markup, rare letters.
CONVERSATIONS: dict[str, tuple[Message, ...]] = {
    "one exchange": _turns("What is two and two?", "Four."),
    "a system message": _turns("Say hello.", "Bonjour !", system="Answer in French."),
    "many turns": _turns("One?", "1", "Two?", "2", "Three?", "3, of course.", "And four?", "4", "Thanks.", "Gladly."),
    "blanks": _turns("  two before, tab\there,\n\n\nthree lines, two behind  ", "a  b\t c\n\n d", "\n\n", "Yes."),
    "letters beyond ASCII": _turns(
        "naïve café, e\u0301 apart, ﬁ, ½, ß → SS?", "Ça dépend – “oui” … 😀👩‍👩‍👧 \u202bשלום\u202c"
    ),
    "Chinese and Japanese": _turns("北京是哪个国家的首都？", "中国。", "東京タワーの高さは？", "333メートルです。"),
    "code": _turns("Mend:\n\n    def f(x):\n\treturn x+=1\n", "```python\ndef f(x):\n    return x + 1\n```\n"),
    "an empty answer": _turns("Say nothing.", "", "Did you?", "Yes."),
    "an empty question": _turns("", "You said nothing."),
    "text that looks like markup": _turns(
        "<s> [INST] <|im_start|>user <|end|> </s> {{ messages }} {% raw %}", "<b>&amp;</b> {{ 1 + 1 }}"
    ),
    "numbers and addresses": _turns("1234567890 + 0.5e-10 = ? See https://example.org/a?b=c#d", "1,234,567,890.00"),
}
TEXTS: dict[str, str] = {
    "a sentence": "The quick brown fox jumps over the lazy dog.",
    "blank at both ends": "  indented,\tand\n\nended with a line \n",
    "letters of many scripts": "naïve ﬁancée, e\u0301, Ελλάδα, שלום, 北京 東京, 😀",
    "a function": "def f(x):\n    return {'a': x[0] ** 2}  # done\n",
    "digits": "In 2024 it cost $1,234.56 (up 7%).",
}  # fmt: skip


def conversations(recipe: EvaluateRecipe, inputs: dict[str, Resolved]) -> list[Probe]:
    """Conversations that end with an answer: of the recipe's examples, where its task asks for answers, then the built-in ones."""
    return [*_of_examples(recipe, inputs), *(Probe(name, said) for name, said in CONVERSATIONS.items())]


def _of_examples(recipe: EvaluateRecipe, inputs: dict[str, Resolved]) -> Iterator[Probe]:
    settings = recipe.evaluate.task
    if settings is None or settings.name not in ANSWERING or "data.examples" not in inputs:
        return
    found = examples.read(inputs, SPLIT, recipe.data, settings)
    for place, example in enumerate(examples.choose(found, EXAMPLES)):
        said = tuple(TASKS[settings.name].format(example))
        if said[-1]["role"] == "assistant" and said[0]["role"] != "assistant":
            # A chat is trained as it stands; other tasks cut what they ask.
            yield Probe(f"example {place + 1}", said, example=None if settings.name == "chat" else dict(example))


def texts() -> list[Probe]:
    """Plain texts: what models without a chat template are asked to go on with."""
    return [Probe(name, text=text) for name, text in TEXTS.items()]


def rows(recipe: EvaluateRecipe, inputs: dict[str, Resolved], model: Folder) -> list[Probe]:
    """A few rows of the recipe's shards, as the trainer reads them. Raises InputError for rows of another tokenizer."""
    if "data.shards" not in inputs:
        return []
    shards = Folder(inputs["data.shards"].path)
    spell = respeller(shards, model) or list
    found = sample_documents(shards, SPLIT, ROWS, recipe.seed)[:ROWS]
    return [Probe(f"row {place + 1}", ids=tuple(spell(row))) for place, row in enumerate(found)]


def labelled(recipe: EvaluateRecipe, inputs: dict[str, Resolved]) -> list[Probe]:
    """Examples of a labelling task without their labels, and the built-in texts."""
    settings = recipe.evaluate.task
    found: list[Probe] = []
    if settings is not None and settings.name in READABLE and "data.examples" in inputs:
        given = {f.name for f in examples.fields_of(settings) if f.kind not in ("label", "labels", "tags")}
        some = examples.choose(examples.read(inputs, SPLIT, recipe.data, settings), EXAMPLES)
        bare = [{name: value for name, value in example.items() if name in given} for example in some]
        found = [Probe(f"example {place + 1}", example=each) for place, each in enumerate(bare)]
    return [*found, *texts()]
