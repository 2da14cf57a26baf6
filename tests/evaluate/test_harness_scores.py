"""lm-evaluation-harness on a tiny model: every figure against plain PyTorch, and token by token against lm_eval's own class."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from manta import artifact as artifacts
from manta import recipe as recipes
from manta import stage
from manta.errors import InputError
from manta.evaluate import engines
from manta.evaluate.harness import answers, figures, measure
from manta.progress import Progress
from manta.report import difference, evaluation
from tests.evaluate.harness_tasks import CHOICE, ENDING, GROUP, QUESTIONS, SAY, TEXT, recipe_of, write
from tests.evaluate.parity_models import of_family

pytest.importorskip("lm_eval", reason="lm_eval is not installed: make env EXTRAS=harness")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return of_family("llama", tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in measure.ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def tasks(tmp_path: Path) -> Path:
    return write(tmp_path / "tasks", choice=CHOICE, text=TEXT, say=SAY, all=GROUP, ending=ENDING)


class Plain:
    """The model and its tokenizer, asked without Manta and without lm_eval."""

    def __init__(self, folder: Path):
        import transformers

        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()

    def ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text)["input_ids"])

    def likelihood(self, context: list[int], rest: list[int]) -> tuple[float, bool]:
        """ln p(rest | context), summed token by token, and whether each is the likeliest there."""
        import torch

        total, greedy = 0.0, True
        for place, token in enumerate(rest):
            with torch.no_grad():
                logits = self.model(torch.tensor([[*context, *rest[:place]]])).logits[0, -1].double()
            total += float(logits[token] - logits.logsumexp(0))
            greedy = greedy and int(logits.argmax()) == token
        return total, greedy

    def says(self, text: str, count: int) -> str:
        import torch

        ids = self.ids(text)
        for _ in range(count):
            with torch.no_grad():
                ids.append(int(self.model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] == self.tokenizer.eos_token_id:
                break
        return str(self.tokenizer.decode(ids[len(self.ids(text)) :], skip_special_tokens=True))


@pytest.fixture(scope="module")
def plain(llama: Path) -> Plain:
    return Plain(llama)


def ask(llama: Path, tasks: Path, wanted: list[str], *overrides: str) -> dict[str, Any]:
    return measure.ask(recipe_of(llama, tasks, wanted, *overrides), llama, tasks, lambda text: None)


def values_of(found: dict[str, Any]) -> dict[str, float]:
    return {figures.name_of(metric): metric["value"] for metric in found["metrics"]}


def test_choices_are_those_of_the_largest_likelihood(llama: Path, tasks: Path, plain: Plain) -> None:
    found = ask(llama, tasks, ["choice"])
    right = longest_right = 0
    for question, sample in zip(QUESTIONS, found["samples"], strict=True):
        prompt = plain.ids(f"Q: {question['question']}\nA:")
        scored = []
        for choice in question["choices"]:  # type: ignore[attr-defined]
            whole = plain.ids(f"Q: {question['question']}\nA: {choice}")
            assert whole[: len(prompt)] == prompt
            scored.append(plain.likelihood(prompt, whole[len(prompt) :]))
        for (ours, greedy), (wanted, is_greedy) in zip(sample["answers"], scored, strict=True):
            assert ours == pytest.approx(wanted, abs=1e-3)
            assert greedy is is_greedy
        each = [log for log, _ in scored]
        per_letter = [log / len(choice) for log, choice in zip(each, question["choices"], strict=True)]  # type: ignore[call-overload]
        right += each.index(max(each)) == question["label"]
        longest_right += per_letter.index(max(per_letter)) == question["label"]
    assert values_of(found) == {"choice/acc": right / 6, "choice/acc_norm": longest_right / 6}
    error = math.sqrt((right / 6) * (1 - right / 6) / 5)
    assert found["metrics"][0]["stderr"] == pytest.approx(error)
    low, high = figures.interval(found["metrics"][0], [], 0) or (0, 0)
    assert (low, high) == pytest.approx((right / 6 - 1.959964 * error, right / 6 + 1.959964 * error))


def test_texts_are_judged_whole(llama: Path, tasks: Path, plain: Plain) -> None:
    found = ask(llama, tasks, ["text"])
    total = words = letters = 0.0
    for question in QUESTIONS:
        text = f"{question['question']} It is {question['choices'][question['label']]}."  # type: ignore[index]
        total += plain.likelihood([plain.tokenizer.bos_token_id], plain.ids(text))[0]
        words, letters = words + len(text.split()), letters + len(text.encode())
    assert values_of(found) == pytest.approx(
        {
            "text/word_perplexity": math.exp(-total / words),
            "text/byte_perplexity": math.exp(-total / letters),
            "text/bits_per_byte": -total / letters / math.log(2),
        },
        rel=1e-4,
    )
    metric = found["metrics"][1]
    assert metric["stderr"] is None
    values = [row["metrics"]["byte_perplexity"] for row in found["samples"]]
    low, high = figures.interval(metric, values, 0) or (0, 0)
    assert low < metric["value"] < high


def test_long_texts_are_judged_in_windows_and_long_questions_are_counted(
    llama: Path, tasks: Path, plain: Plain
) -> None:
    found = ask(llama, tasks, ["text"], "evaluate.harness.max_length=9")
    ids = plain.ids(found["samples"][0]["prompt"])
    assert len(ids) > 16, "the windows below would not be needed"
    fed = 8
    total = plain.likelihood([plain.tokenizer.bos_token_id], ids[:fed])[0]
    for first in range(fed, len(ids), fed):
        last = min(first + fed, len(ids))
        total += plain.likelihood(ids[last - fed - 1 : first], ids[first:last])[0]
    assert found["samples"][0]["answers"][0] == pytest.approx(total, abs=1e-3)
    assert found["cut"] == 0
    assert ask(llama, tasks, ["choice"], "evaluate.harness.max_length=16")["cut"] == sum(
        len(plain.ids(f"Q: {question['question']}\nA: {choice}")) > 16
        for question in QUESTIONS
        for choice in question["choices"]  # type: ignore[attr-defined]
    )


def test_answers_are_greedy_and_end_before_the_stop(llama: Path, tasks: Path, plain: Plain) -> None:
    found = ask(llama, tasks, ["say"])
    said = [plain.says(str(question["question"]), 8).split("s")[0] for question in QUESTIONS]
    assert [row["answers"] for row in found["samples"]] == [[answer] for answer in said]
    wanted = [question["choices"][question["label"]] for question in QUESTIONS]  # type: ignore[index]
    assert values_of(found) == {"say/exact_match": sum(map(str.__eq__, said, wanted)) / 6}


def test_endings_are_judged_and_their_perplexity_is_over_questions(llama: Path, tasks: Path, plain: Plain) -> None:
    found = ask(llama, tasks, ["ending"], "evaluate.harness.limit=3")
    each = []
    for question in QUESTIONS[:3]:
        prompt = plain.ids(str(question["question"]))
        whole = plain.ids(f"{question['question']} {question['choices'][0]}")  # type: ignore[index]
        each.append(plain.likelihood(prompt, whole[len(prompt) :])[0])
    assert values_of(found)["ending/perplexity"] == pytest.approx(math.exp(-sum(each) / 3), rel=1e-4)
    assert [metric["aggregation"] for metric in found["metrics"]] == ["perplexity", "mean"]


def test_examples_come_before_the_question_and_depend_on_their_seed_alone(llama: Path, tasks: Path) -> None:
    two = "evaluate.harness.fewshot=2"
    prompts = [
        [row["prompt"] for row in ask(llama, tasks, ["choice"], two, *more)["samples"]]
        for more in ([], ["seed=5"], ["evaluate.harness.fewshot_seed=7"])
    ]
    assert all(prompt.count("Q: ") == 3 for side in prompts for prompt in side)
    assert prompts[0][0].endswith(f"\n\nQ: {QUESTIONS[0]['question']}\nA:")
    assert prompts[0] == prompts[1] != prompts[2]


def test_a_group_is_the_mean_over_its_questions(llama: Path, tasks: Path) -> None:
    write(tasks, one=CHOICE.replace("choice\n", "one\n", 1), pair=GROUP.replace("all", "pair").replace("say", "one"))
    found = values_of(ask(llama, tasks, ["pair"]))
    assert found["pair/acc"] == pytest.approx((found["choice/acc"] + found["one/acc"]) / 2)


@pytest.fixture
def own_class(llama: Path) -> Iterator[Any]:
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(llama), device="cpu", dtype="float32", batch_size=1, max_length=31)


def test_requests_are_answered_as_by_lm_evals_own_class(llama: Path, own_class: Any) -> None:
    """Blanks at the seam, no context at all, a special token written out, and more than the model takes."""
    import transformers

    judge = engines.judge("transformers", llama, "float32", 32)
    ours = answers.model(judge, transformers.AutoTokenizer.from_pretrained(llama), 31)
    pairs = [("a b ", "c"), ("", "one two"), ("x" * 60, " y z"), ("<s>a", "b"), ("Q:", " é\n"), ("Q:", " e")]
    choices = [SimpleNamespace(args=pair, task_name=None) for pair in pairs]
    for (log, greedy), (wanted, is_greedy) in zip(
        ours.loglikelihood(choices), own_class.loglikelihood(choices), strict=True
    ):
        assert log == pytest.approx(wanted, abs=1e-3)
        assert greedy is is_greedy
    blanks = [SimpleNamespace(args=pair) for pair in (("  ", "c"), ("", "  c"))]
    assert len(set(ours.loglikelihood(blanks))) == 1, "blanks alone are no context"
    texts = [SimpleNamespace(args=(text,)) for text in ("short", "long " * 30, "<s>")]
    assert ours.loglikelihood_rolling(texts) == pytest.approx(own_class.loglikelihood_rolling(texts), abs=1e-2)
    asked = [
        SimpleNamespace(args=(text, {"until": ["zz"], "max_gen_toks": 6}))
        for text in ("a", "Who goes there?", "x" * 60)
    ]
    assert ours.generate_until(asked) == own_class.generate_until(asked)
    assert ours.cut == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (SAY.replace("until: [", "temperature: 0.7, until: ["), "answers are found greedily here"),
        (SAY.replace("until: [", "num_beams: 4, until: ["), "set num_beams"),
        (SAY.replace("8", "4000"), "lower max_gen_toks"),
        (SAY.replace("exact_match", "rouge"), "the metric 'rouge', which lm_eval does not have"),
        (SAY + "test_split: dev\n", "cannot make them"),
        (SAY.replace("{{question}}", "{{query}}"), "UndefinedError: 'query' is undefined"),
        (SAY.replace("{{question}}", "{{''.__class__.__mro__}}"), "SecurityError"),
        (SAY.replace("{{question}}", "{{cycler.__init__.__globals__.os.getcwd()}}"), "SecurityError"),
        (ENDING.replace("ending", "say").replace(" {{choices[0]}}", ""), "has 0 tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused(llama: Path, tasks: Path, text: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        ask(llama, write(tasks, say=text), ["say"])


def test_settings_that_a_task_would_pass_over_are_refused(llama: Path, tasks: Path) -> None:
    write(tasks, say=SAY + "num_fewshot: 0\n")
    with pytest.raises(InputError, match="says num_fewshot: 0"):
        ask(llama, tasks, ["say"], "evaluate.harness.fewshot=2")


def test_python_of_a_task_runs_once_it_is_allowed(llama: Path, tasks: Path) -> None:
    (tasks / "helper.py").write_text("def loud(doc):\n    return doc['question'].upper()\n")
    write(tasks, say=SAY.replace('"{{question}}"', "!function helper.loud"))
    found = ask(llama, tasks, ["say"], "evaluate.harness.allow_python=true")
    assert found["samples"][0]["prompt"] == "TWO AND TWO?"
    with pytest.raises(InputError, match="runs Python"):
        ask(llama, tasks, ["say"])


def test_questions_are_put_as_the_chat_template_does(llama: Path, tasks: Path, plain: Plain) -> None:
    found = ask(llama, tasks, ["say"], "evaluate.harness.chat_template=true")
    turn = [{"role": "user", "content": QUESTIONS[0]["question"]}]
    assert found["samples"][0]["prompt"] == plain.tokenizer.apply_chat_template(
        turn, tokenize=False, add_generation_prompt=True
    )


@pytest.mark.integration
@pytest.mark.usefixtures("ray_session")
def test_the_stage_keeps_figures_and_questions_and_two_of_them_compare(llama: Path, tasks: Path) -> None:
    recipe = recipe_of(llama, tasks, ["mine"])
    made = stage.run(recipe, Progress(quiet=True)).artifact
    alone = ask(llama, tasks, ["mine"])
    assert {name: value for name, value in made.metrics.items() if "/" in name} == pytest.approx(values_of(alone))
    report = json.loads(made.folder.read_text("scores.json"))
    assert set(report["intervals"]) == set(values_of(alone))
    lines = made.folder.read_text(figures.SAMPLES).splitlines()
    assert [json.loads(line)["doc_id"] for line in lines] == [*range(6), *range(6)]
    assert "choice/acc_norm" in "".join(evaluation.sections(made))

    import torch
    import transformers

    other = tasks.parent / "other"
    model = transformers.AutoModelForCausalLM.from_pretrained(llama)
    torch.nn.init.zeros_(model.model.embed_tokens.weight)  # every token is as likely as every other
    model.save_pretrained(other)
    transformers.AutoTokenizer.from_pretrained(llama).save_pretrained(other)
    second = recipe_of(other, tasks, ["mine"], "name=even")
    blind = artifacts.open_artifact(stage.run(second, Progress(quiet=True)).artifact.folder.url)
    assert blind.metrics["text/bits_per_byte"] > 8.2  # log2(300) a byte, which is a token
    told = "\n".join(difference.lines(made, blind))
    assert "choice/acc " in told
    assert "text/bits_per_byte" in told
    fewer = recipes.validate(recipes.override(recipes.resolved(second), ["name=fewer", "evaluate.harness.limit=3"]))
    few = stage.run(fewer, Progress(quiet=True)).artifact  # type: ignore[arg-type]
    with pytest.raises(InputError, match="other questions of choice"):
        list(difference.lines(made, few))
