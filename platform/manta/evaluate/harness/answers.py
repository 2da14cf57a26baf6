"""A model as lm_eval asks it: likelihoods of continuations and of whole texts, and answers up to a stop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from manta.errors import InputError
from manta.evaluate.engines import Judge

GREEDY = {"until", "do_sample", "temperature", "top_p", "top_k", "max_gen_toks"}  # what changes nothing, or is read


def model(judge: Judge, tokenizer: Any, max_length: int) -> Any:
    """What `lm_eval.evaluator.evaluate` calls a model (`lm_eval.api.model.LM`).

    Token ids are those of lm_eval's own class for Transformers ("hf") with the same `max_length`, the largest number of
    tokens that the model is fed: a continuation's last token is judged and not fed, so rows have one more.
    """
    from lm_eval.api.model import TemplateLM

    class Model(_Answers, TemplateLM):
        """lm_eval's side: it turns pairs of texts into ids and calls what `_Answers` adds."""

    return Model(judge, tokenizer, max_length)


class _Answers:
    """What lm_eval's TemplateLM leaves open. `cut` counts the requests that lost tokens on their left."""

    def __init__(self, judge: Judge, tokenizer: Any, max_length: int):
        super().__init__()
        self.judge, self.tokenizer, self.max_length = judge, tokenizer, max_length
        self.cut = 0

    @property
    def eot_token_id(self) -> int:
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text that has nothing before it."""
        begin = self.tokenizer.bos_token_id
        return self.eot_token_id if begin is None else int(begin)

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids; the tokenizer's own special tokens are added unless the text begins with that of its beginning."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(self.tokenizer.decode(self.prefix_token_id))
        return list(self.tokenizer(string, add_special_tokens=add_special_tokens)["input_ids"])

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        """(texts, context ids, continuation ids) -> (ln p of the continuation, whether greedy search would write it)."""
        # A context of blanks alone has no tokens once lm_eval has moved them to the continuation.
        rows = [[*(context or [self.prefix_token_id]), *continuation] for _, context, continuation in requests]
        ends = [list(continuation) for *_, continuation in requests]
        for end in ends:
            if not 0 < len(end) <= self.max_length:
                raise InputError(
                    f"evaluate.harness: an answer to choose has {len(end)} tokens, and 1 to {self.max_length} fit: correct the task, "
                    "or set a larger evaluate.harness.max_length"
                )
        self.cut += sum(len(row) > self.max_length + 1 for row in rows)
        found = self.judge.believe([row[-(self.max_length + 1) :] for row in rows])
        return [
            (sum(logs[-len(end) :]), best[-len(end) :] == end) for (logs, best), end in zip(found, ends, strict=True)
        ]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """ln p of whole texts: long ones in windows, each of whose tokens is judged once."""
        del disable_tqdm
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        pairs: list[Any] = []
        counts = []
        for (text,) in (request.args for request in requests):
            windows = get_rolling_token_windows(
                self.tok_encode(text), self.prefix_token_id, max_seq_len=self.max_length, context_len=1
            )
            made = [(None, *make_disjoint_window(window)) for window in windows]
            pairs += made
            counts.append(len(made))
        judged = iter(self._loglikelihood_tokens(pairs))
        return [sum(next(judged)[0] for _ in range(count)) for count in counts]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers, cut where the first stop of each begins."""
        del disable_tqdm
        from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text

        prompts, limits, stops = [], [], []
        end = self.tokenizer.decode([self.eot_token_id])
        for text, given in (request.args for request in requests):
            wanted = normalize_gen_kwargs(given)
            _refuse_search(wanted)
            limits.append(int(wanted["max_gen_toks"]))
            stops.append(handle_stop_sequences(wanted["until"], eos=end))
            prompts.append(self._prompt(text, limits[-1]))
        answers = self.judge.generate(prompts, limits)
        texts = [self.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
        return [
            str(postprocess_generated_text(text, stop, think_end_token=None))
            for text, stop in zip(texts, stops, strict=True)
        ]

    def _prompt(self, text: str, limit: int) -> list[int]:
        room = self.max_length - limit
        if room < 1:
            raise InputError(
                f"evaluate.harness: a task wants answers of {limit} tokens (max_gen_toks) and the model is fed {self.max_length}, so no "
                "question fits: lower max_gen_toks in its generation_kwargs"
            )
        ids = self.tok_encode(text) or [self.prefix_token_id]
        self.cut += len(ids) > room
        return ids[-room:]


def _refuse_search(wanted: dict[str, Any]) -> None:
    other = sorted(set(wanted) - GREEDY)
    if wanted["do_sample"] or other:
        told = "do_sample or a temperature" if wanted["do_sample"] else ", ".join(other)
        raise InputError(
            f"evaluate.harness: a task's generation_kwargs set {told}, and answers are found greedily here: leave it out"
        )
