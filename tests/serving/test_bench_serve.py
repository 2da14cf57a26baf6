"""`manta bench-serve` on a clock of its own: arrivals, delays and goodput come out as they were put in; failures are counted."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from manta.cli import parse
from manta.errors import InputError
from serving.bench import prompts
from serving.bench.client import Refused, Sample, read
from serving.bench.figures import figures, percentile, text
from serving.bench.load import arrivals, closed_loop, open_loop
from serving.bench.options import Options
from serving.bench.run import bench
from tests.serving.fake_engine import launch
from tests.serving.talker import ANSWER, Talker, served

URL = "http://127.0.0.1:8000"


class Clock(asyncio.SelectorEventLoop):
    """An event loop whose time stands still while there is work and jumps to the next timer when there is none."""

    now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0].when())
        super()._run_once()


def play(story: Callable[[Clock], Coroutine[Any, Any, Any]]) -> Any:
    with asyncio.Runner(loop_factory=Clock) as runner:
        clock = runner.get_loop()
        assert isinstance(clock, Clock)
        return runner.run(story(clock))


def ignore(_: int) -> None:
    """Nobody watches the progress."""


def answering(clock: Clock, first: float, gap: float, tokens: int) -> Any:
    """An endpoint of known delays: `first` seconds to the first token, `gap` to each next one."""

    async def ask(prompt: Any, due: float) -> Sample:
        sample = Sample(due)
        await asyncio.sleep(first)
        sample.first = clock.time()
        for _ in range(tokens - 1):
            await asyncio.sleep(gap)
            sample.gaps.append(gap)
        sample.last = sample.ended = clock.time()
        sample.new_tokens, sample.prompt_tokens = tokens, 9
        return sample

    return ask


# --- arrivals --------------------------------------------------------------------------------------------------------


def test_arrivals_are_a_poisson_process_that_the_seed_repeats():
    moments = arrivals(4.0, 20_000, seed=1)
    assert moments == arrivals(4.0, 20_000, seed=1) != arrivals(4.0, 20_000, seed=2)
    gaps = [b - a for a, b in itertools.pairwise(moments)]
    assert moments[0] == 0
    assert statistics.mean(gaps) == pytest.approx(0.25, rel=0.03)
    assert statistics.stdev(gaps) == pytest.approx(0.25, rel=0.05)  # of an exponential: as its mean


def test_an_open_loop_waits_for_nobody():
    moments = arrivals(2.0, 50, seed=0)

    async def story(clock):
        return await open_loop(answering(clock, 1000.0, 0.0, 1), range(50), moments, ignore)

    course = play(story)
    assert [sample.due for sample in course.samples] == pytest.approx(moments)
    assert course.most_at_once == 50
    assert course.ended == pytest.approx(moments[-1] + 1000)


def test_a_closed_loop_waits_for_each_answer():
    done = []

    async def story(clock):
        return await closed_loop(answering(clock, 2.0, 0.0, 1), range(10), 3, done.append)

    course = play(story)
    assert course.most_at_once == 3
    assert course.ended == pytest.approx(8.0)  # ten answers of two seconds, three at a time
    assert [sample.due for sample in course.samples] == pytest.approx([0, 0, 0, 2, 2, 2, 4, 4, 4, 6])
    assert done == list(range(1, 11))


# --- figures ---------------------------------------------------------------------------------------------------------


def test_percentiles_interpolate():
    values = [4.0, 1.0, 3.0, 2.0]
    assert [percentile(values, share) for share in (0, 50, 100)] == [1.0, 2.5, 4.0]
    assert percentile(values, 90) == pytest.approx(3.7)
    assert percentile([5.0], 99) == 5.0


def test_known_delays_come_out():
    options = Options(URL, rate=1.0, requests=4, ttft_ms=250, tpot_ms=60)

    async def story(clock):
        return await open_loop(answering(clock, 0.2, 0.05, 11), range(4), [0.0, 1.0, 2.0, 3.0], ignore)

    found = figures(play(story), options, "m", cpu_seconds=0.1)
    assert found["ttft_ms"] == pytest.approx({"mean": 200, "p50": 200, "p90": 200, "p95": 200, "p99": 200})
    assert found["tpot_ms"]["p99"] == found["itl_ms"]["p50"] == pytest.approx(50)
    assert found["e2e_ms"]["p50"] == pytest.approx(700)
    assert (found["answered"], found["errors"], found["new_tokens_mean"], found["prompt_tokens_mean"]) == (4, {}, 11, 9)
    assert found["requests_per_s"] == pytest.approx(4 / 3.7, rel=1e-3)
    assert found["tokens_per_s"] == pytest.approx(44 / 3.7, rel=1e-3)
    assert found["goodput"]["share"] == 1
    assert not found["client"]["limited"]
    assert json.loads(json.dumps(found)) == found
    assert "200.0" in text(found) and "itself late" not in text(found)


def test_goodput_counts_what_meets_every_target_of_all_that_was_asked():
    def sample(first: float, last: float, **more: Any) -> Sample:
        return Sample(0.0, ended=last, first=first, last=last, new_tokens=11, **more)

    samples = [sample(0.1, 1.1), sample(0.3, 1.3), sample(0.1, 3.1), sample(0.1, 1.1, error="broken_stream", said="x")]

    async def story(clock):
        course = await open_loop(answering(clock, 1.0, 0, 1), [0], [0.0], ignore)
        course.samples = samples
        return course

    options = Options(URL, concurrency=1, ttft_ms=200, tpot_ms=150)
    found = figures(play(story), options, "m", 0.0)
    assert found["goodput"] == {"targets": {"ttft_ms": 200, "tpot_ms": 150}, "share": 0.25, "requests_per_s": 1.0}
    assert found["errors"] == {"broken_stream": 1}
    assert "1 x broken_stream (x)" in text(found)


def test_a_client_that_is_late_itself_says_so_and_does_not_flatter_the_endpoint():
    async def story(clock):
        fast = answering(clock, 0.1, 0.0, 1)

        async def ask(prompt: Any, due: float) -> Sample:
            clock.now += 0.5  # the client computes, and its loop stands still
            return await fast(prompt, due)

        return await open_loop(ask, range(20), [0.01 * number for number in range(20)], ignore)

    found = figures(play(story), Options(URL, rate=100), "m", 0.0)
    assert found["client"]["limited"]
    assert found["ttft_ms"]["p99"] > 9000, "the wait of requests that were sent late is left out"
    assert "itself late" in text(found)


def test_nothing_answered_is_told_without_delays():
    async def story(clock):
        async def ask(prompt: Any, due: float) -> Sample:
            return Sample(due, error="http_503", said="busy")

        return await closed_loop(ask, range(3), 2, ignore)

    found = figures(play(story), Options(URL, concurrency=2, ttft_ms=1), "m", 0.0)
    assert (found["answered"], found["errors"], found["ttft_ms"]) == (0, {"http_503": 3}, None)
    assert "3 x http_503 (busy)" in text(found)


# --- streams ---------------------------------------------------------------------------------------------------------


def stream(*events: Any) -> Callable[[Clock], Coroutine[Any, Any, Sample]]:
    """Reads events of (seconds before it, data) and returns the sample."""

    async def story(clock: Clock) -> Sample:
        async def lines() -> Any:
            for wait, data in events:
                await asyncio.sleep(wait)
                yield b": a comment\n"
                yield b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n"

        sample = Sample(due=clock.time())
        await read(lines(), sample)
        return sample

    return story


def piece(text: str | None, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": reason}]}


def test_a_stream_is_measured_token_by_token():
    usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 4}}
    events = [
        (0.1, piece("")),
        (0.2, piece("a")),
        (0.1, piece("b")),
        (0.4, piece("c d")),
        (0.1, piece(None, "stop")),
        (0, usage),
        (9, b"[DONE]"),
    ]
    sample = play(stream(*events))
    assert sample.ttft == pytest.approx(0.3)
    assert sample.gaps == pytest.approx([0.1, 0.4])
    assert sample.tpot == pytest.approx(0.6 / 3)
    assert (sample.prompt_tokens, sample.new_tokens) == (5, 4)


def test_completions_without_usage_are_counted_in_pieces():
    sample = play(stream(*[(0.1, {"choices": [{"text": "a"}]})] * 3, (0, b"[DONE]")))
    assert (sample.new_tokens, sample.prompt_tokens) == (3, None)
    assert sample.tpot == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("events", "kind"),
    [
        ([(0, piece("a"))], "broken_stream"),
        ([(0, piece("a")), (0, {"error": {"message": "gone"}})], "error_event"),
        ([(0, b"[DONE]")], "empty_answer"),
    ],
)
def test_a_stream_that_ends_badly_has_a_kind(events, kind):
    with pytest.raises(Refused) as refused:
        play(stream(*events))
    assert refused.value.kind == kind


def test_a_stream_of_something_else_is_unreadable():
    with pytest.raises(ValueError, match="Expecting"):
        play(stream((0, b"{nothing")))


# --- prompts ---------------------------------------------------------------------------------------------------------


def test_generated_prompts_have_the_wanted_tokens_whatever_the_template_takes():
    async def count(prompt: str) -> int:
        return 30 + 3 * len(prompt.split())

    made = asyncio.run(prompts.generated(300, 5, 0, count))
    assert [30 + 3 * len(prompt.split()) for prompt in made] == [300] * 5
    assert len({prompt[:40] for prompt in made}) == 5
    assert made == asyncio.run(prompts.generated(300, 5, 0, count))
    with pytest.raises(InputError, match="about 30 by itself"):
        asyncio.run(prompts.generated(20, 5, 0, count))


def test_prompts_of_a_file_go_round(tmp_path):
    lines, records = tmp_path / "a.txt", tmp_path / "a.jsonl"
    lines.write_text("one\n\ntwo\n")
    messages = [{"role": "user", "content": "hi"}]
    records.write_text(json.dumps({"messages": messages}) + "\n" + json.dumps({"prompt": "p"}) + "\n")
    assert prompts.from_file(str(lines), 3, "chat") == ["one", "two", "one"]
    assert prompts.from_file(str(records), 2, "chat") == [messages, "p"]
    with pytest.raises(InputError, match="line 1 needs one of prompt"):
        prompts.from_file(str(records), 2, "completions")
    for content, message in (("", "holds no prompt"), ("{", "line 1 is not JSON")):
        records.write_text(content)
        with pytest.raises(InputError, match=message):
            prompts.from_file(str(records), 2, "chat")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "one of the two"),
        ({"rate": 1.0, "concurrency": 1}, "one of the two"),
        ({"rate": 0.0}, "--rate = 0.0"),
        ({"concurrency": 1, "new_tokens": 0}, "--new-tokens = 0"),
        ({"url": "localhost", "rate": 1.0}, "not a URL"),
    ],
)
def test_what_makes_no_load_is_refused(given, message):
    with pytest.raises(InputError, match=message):
        Options(**{"url": URL, **given})


# --- over HTTP -------------------------------------------------------------------------------------------------------


@pytest.fixture
def url():
    with served(Talker(), launch(max_body_bytes=100_000, max_ongoing_requests=64)) as address:
        yield address


def test_a_load_over_http_counts_answers_and_refusals(url, tmp_path, silent):
    file = tmp_path / "prompts.txt"
    file.write_text("hello\nhello\nhello\nbreak\nfault\nnoise\nbusy\nhello\n")
    found = bench(Options(f"{url}/v1/", rate=200.0, requests=8, prompts=str(file)), silent)
    assert found["model"] == "tiny"
    assert found["answered"] == 4
    # The gateway ends whatever breaks with an error event.
    assert found["errors"] == {"error_event": 2, "unreadable_stream": 1, "http_429": 1}
    assert found["new_tokens_mean"] == len(ANSWER)
    assert found["ttft_ms"]["p50"] <= found["e2e_ms"]["p99"]


def test_the_command_prints_what_programs_and_people_read(url, tmp_path, capsys):
    file = tmp_path / "prompts.txt"
    file.write_text("hello\n")
    words = ["bench-serve", url, "--concurrency", "2", "--requests", "4", "--prompts", str(file), "--tpot-ms", "1e6"]
    args = parse([*words, "--json"])
    assert args.call(args) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told[-1]["event"] == "figures"
    assert (told[-1]["answered"], told[-1]["goodput"]["share"]) == (4, 1)
    file.write_text("hello\nbusy\n")
    args = parse([*words[:-2], "--model", "tiny"])
    assert args.call(args) == 0
    out = capsys.readouterr().out
    assert "tiny at http" in out
    assert "2 x http_429 (Rate limit)" in out
    assert "p99" in out
    file.write_text("busy\n")
    assert args.call(args) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"model": "none"}, "serves tiny, other"), ({"url": "http://127.0.0.1:9"}, "nothing answers")],
)
def test_nothing_to_put_load_on_is_told_first(url, silent, changes, message):
    with pytest.raises(InputError, match=message):
        bench(Options(**{"url": url, "rate": 1.0, **changes}), silent)


def test_a_wrong_key_is_told_first(silent):
    with served(Talker(), launch(key_hashes=("00" * 32,))) as address:
        with pytest.raises(InputError, match="--key"):
            bench(Options(address, rate=1.0, key="wrong"), silent)


def test_an_endpoint_that_counts_no_tokens_is_told_what_else_there_is(url, silent):
    with pytest.raises(InputError, match="--prompts FILE"):
        bench(Options(url, rate=1.0), silent)
