"""Writes what benchmarks/results holds: the claims into the README, every figure into a page beside the rows.

`--check` only says whether both are up to date.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
PAGE = RESULTS / "README.md"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"
Row = dict[str, Any]


def rows(folder: Path) -> list[Row]:
    """All rows, by benchmark and date."""
    found = [row for path in sorted(folder.glob("*.json")) for row in json.loads(path.read_text())]
    return sorted(found, key=lambda row: (row["benchmark"], row["date"]))


class Goal(NamedTuple):
    """A figure worth a line in the README. `least` or `most` is what it should reach; neither: it is only told."""

    benchmark: str
    figure: str
    words: str
    least: float | None = None
    most: float | None = None

    def met(self, value: float) -> bool | None:
        """Whether a value reaches the goal; None without one."""
        if self.least is None and self.most is None:
            return None
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def shown(self) -> str:
        """The goal as a cell of a table."""
        parts = [f"at least {self.least:g}"] if self.least is not None else []
        return ", ".join(parts + ([f"at most {self.most:g}"] if self.most is not None else []))


GOALS = (
    Goal("data", "tokenize_vs_tiktoken", "preparing text, tokens per CPU second: over raw tiktoken", least=0.8),
    Goal("data", "tokenize_vs_datasets_map", "the same: over `datasets.map`", least=5),
    Goal("data", "tokenize_vs_datatrove", "the same: over datatrove", least=5),
    Goal("data", "clean_vs_datatrove", "cleaning: over datatrove with the same rules", least=3),
    Goal("data", "dedup_vs_datasketch", "near-duplicates: over datasketch", least=10),
    Goal("data", "dedup_recall_error", "near-duplicates found: off what theory says", most=3),
    Goal("data_scale", "peak_memory_growth", "peak memory of preparing ten times the text (70 to 700 MB)"),
    Goal("data_stream", "first_batch_s_many", "first batch, 10^8 samples", most=2),
    Goal("data_stream", "data_wait_share", "share of a step that training waits for data", most=1),
    Goal("train", "vs_bare_1", "training, tokens per second, one worker: over a bare PyTorch loop", least=0.97),
    Goal("train", "vs_hf_trainer", "the same: over Hugging Face's Trainer with DeepSpeed", least=1.15),
    Goal("train", "vs_bare_ddp_2", "two workers: over a bare DistributedDataParallel loop", least=0.9),
    Goal("train", "memory_vs_bare_1", "peak memory: over the bare loop", most=1),
    Goal("train", "memory_vs_hf_trainer", "peak memory: over the Trainer", most=1),
    Goal("train_sizes", "vs_bare_1_135m", "SmolLM2-135M's layers: over the bare loop", least=0.97),
    Goal("train_sizes", "vs_hf_trainer_135m", "SmolLM2-135M's layers: over the Trainer", least=1.15),
    Goal("train_sizes", "vs_bare_compiled_1", "both compiled: over the bare loop", least=0.97),
    Goal("recovery", "checkpoint_stall_share", "training stands still for checkpoints, one a minute", most=0.01),
    Goal("recovery", "resume_seconds", "kill -9 to the first new step, beyond the start of processes", most=20),
    Goal("recovery", "goodput", "goodput at one kill in ten minutes", least=0.97),
    Goal("plan", "plan_memory_error", "memory that `manta plan` names: off the measured", most=0.1),
    Goal("plan", "plan_memory_error_held_out", "the same, set-ups that nothing was fitted to", most=0.1),
    Goal("plan_hours", "plan_hours_error", "hours of `manta plan RECIPE --measure`: off the trained", most=0.2),
    Goal("finetune", "throughput_vs_hf", "fine-tuning, tokens per second: over Hugging Face's Trainer", least=1.15),
    Goal("finetune", "lora_memory_share", "peak memory of LoRA: over full tuning", most=0.6),
    Goal("finetune", "bad_file_seconds_max", "a bad file of examples is answered", most=5),
    Goal("tune", "steps_share_vs_random", "steps to a random search's best loss: over that search's steps", most=0.25),
    Goal(
        "tune", "best_score_minus_random", "best loss after a quarter of those steps: less the random search's", most=0
    ),
    Goal("tune", "steps_vs_optuna", "steps to the same loss: over plain Optuna's, same sampler and pruner", most=1),
    Goal("tune", "trial_overhead_share", "a trial of a sweep: beyond the same training by itself", most=0.05),
    Goal("tune", "driver_ms_per_trial", "scheduling trials that take no time: CPU of driver and keeper, each", most=50),
    Goal(
        "compress", "w8a8_ppl_ratio", "int8 weights and activations of SmolLM2-135M: perplexity over its own", most=1.01
    ),
    Goal("compress", "w8a8_speed_1", "the same: tokens per CPU second, one request at a time", least=1.45),
    Goal("compress", "w8a8_speed_16", "the same: sixteen at a time", least=1.4),
    Goal("compress", "w8a8_size", "the same: size", most=0.61),
    Goal("compress", "w4a16_ppl_ratio", "int4 weights of SmolLM2-135M: perplexity over its own", most=1.1),
    Goal("compress", "w4a16_speed_1", "the same: tokens per CPU second, one request at a time", least=1.45),
    Goal("compress", "w4a16_size", "the same: size", most=0.42),
    Goal("compress", "llmcompressor_ppl_ratio", "llm-compressor's GPTQ on the same rows: perplexity"),
    Goal("compress", "cost_vs_llmcompressor", "making it: CPU seconds over llm-compressor's GPTQ", most=0.5),
    Goal("compress_depth", "memory_30", "making it: peak memory over the bf16 weights", most=1.3),
    Goal("compress_depth", "cost_linear", "the same: CPU seconds of a block, the last 15 over the 7 before", most=1.1),
    Goal("compress_depth", "memory_of_depth", "the same: memory with 30 blocks over that with 8", most=1.1),
    Goal(
        "compress_heal", "heal_ppl_ratio", "a quarter of its blocks gone, healed by distillation: perplexity", most=1.35
    ),
    Goal("compress_heal", "scratch_ppl_ratio", "a model of that shape from scratch, as many tokens: perplexity"),
    Goal("compress_prune", "vocabulary_size", "its vocabulary trimmed to Python's documentation: size", most=0.8),
    Goal("compress_prune", "vocabulary_ppl_ratio", "the same: perplexity of that text", most=1.005),
    Goal("compress_prune", "vocabulary_int4_size", "the same in int4, over int4 with all tokens: size", most=0.8),
    Goal("compress_prune", "vocabulary_int4_ppl_ratio", "the same: perplexity of that text", most=1.005),
    Goal("serve", "throughput_vs_vllm_1", "serving, throughput at 1 client: over bare vLLM", least=0.95),
    Goal("serve", "throughput_vs_vllm_8", "the same at 8 clients", least=0.95),
    Goal("serve", "throughput_vs_vllm_32", "the same at 32 clients", least=0.95),
    Goal("serve", "ttft_p50_extra_ms", "time to the first token beyond bare vLLM, median", most=10),
    Goal("serve", "ttft_p99_extra_ms", "the same, 99th percentile", most=25),
    Goal("serve", "itl_p99_vs_vllm", "time between tokens, 99th percentile: over bare vLLM", most=1.2),
    Goal("serve", "cpu_vs_vllm", "CPU per request: over bare vLLM", most=1.8),
    Goal("serve", "ready_extra_seconds", "ready after bare vLLM", most=5),
    Goal("serve", "failed_on_replica_kill", "kill -9 of one of two replicas, 500 requests: not answered", most=0),
    Goal("serve", "hung_on_replica_kill", "the same: answers that never ended", most=0),
    Goal("serve", "replica_kill_back_s", "the same: until there are two again"),
    Goal("serve", "engine_kill_error_s", "kill -9 of one of two engines: errors for", most=2),
    Goal("serve_hostile", "hostile_throughput_share", "throughput left beside a thousand hostile clients", least=0.9),
    Goal(
        "serve_hostile",
        "hostile_throughput_share_endpoint",
        "the same, over a crowd that asks another server",
        least=0.9,
    ),
    Goal("serve_hostile", "hostile_memory_growth", "memory after such crowds: over after the first", most=1.05),
)


# --- the claims ------------------------------------------------------------------------------------------------------


def claims(found: Sequence[Row], goals: Sequence[Goal] = GOALS) -> str:
    """Markdown: a line for each goal whose figure was recorded, from the newest row that has it."""
    lines = ["| what | measured | goal | | machine, commit, date |", "|---|---|---|---|---|"]
    for goal in goals:
        if row := newest(found, goal.benchmark, goal.figure):
            shown = row["figures"][goal.figure]
            spread = f" ({_range(shown)})" if _range(shown) else ""
            value = shown.get("median")
            met = {None: "", True: "met", False: "**short**"}[None if value is None else goal.met(value)]
            lines.append(f"| {goal.words} | {_value(shown)}{spread} | {goal.shown()} | {met} | {_where(row)} |")
    if len(lines) == 2:
        return "No benchmark has been recorded yet: `make bench` records them."
    return "\n".join(
        [*lines, "", "All figures and the commands that made them: [results](benchmarks/results/README.md)."]
    )


def newest(found: Sequence[Row], benchmark: str, figure: str) -> Row | None:
    """The last row of a benchmark that has the figure."""
    having = [row for row in found if row["benchmark"] == benchmark and figure in row["figures"]]
    return having[-1] if having else None


# --- every figure ----------------------------------------------------------------------------------------------------


def table(found: Sequence[Row]) -> str:
    """Markdown: one line per figure of the newest row of each benchmark and mode; failed ones have a line that says so."""
    lines = ["| question | figure | median | min to max | machine, commit, date |", "|---|---|---|---|---|"]
    last = {(row["benchmark"], bool(row["settings"].get("quick"))): row for row in found}
    for row in last.values():
        where = _where(row)
        mode = " (quick)" if row["settings"].get("quick") else ""
        question = f"{row['question']}{mode}<br>`{row['command']}`"
        for name, shown in row["figures"].items():
            lines.append(f"| {question} | `{name}` | {_value(shown)} | {_range(shown)} | {where} |")
            question = where = ""
        if row["error"]:
            lines.append(f"| {question} | failed | | {_cell(row['error'])[:200]} | {where} |")
    return "\n".join(lines)


def page(found: Sequence[Row]) -> str:
    """The page beside the rows."""
    return (
        "# What the benchmarks found\n\n"
        "The newest row of each benchmark, made by `python benchmarks/report.py` from the JSON files here, which also hold older\n"
        "rows, every single run, settings and versions. A ratio has its yardstick in the same run, alternating.\n\n"
        f"{table(found)}\n"
    )


def _where(row: Mapping[str, Any]) -> str:
    hardware = row["hardware"]
    gpus = "".join(f", {name}" for name in hardware["gpus"])
    commit = (row["commit"] or "no commit")[:9] + ("+" if row["dirty"] else "")
    cpu = hardware.get("cpu", "unknown").replace("(R)", "").replace(" Processor", "")
    return _cell(f"{hardware['cores']} cores of {cpu}{gpus}; {commit}; {row['date'][:10]}")


def _value(shown: Mapping[str, Any]) -> str:
    if shown.get("median") is None:
        return "none"
    unit = shown["unit"]
    return f"{shown['median']:g}{unit if unit == 'x' else ' ' + unit if unit else ''}"


def _range(shown: Mapping[str, Any]) -> str:
    return f"{shown['min']:g} to {shown['max']:g}" if len(shown.get("values", ())) > 1 else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


# --- files -----------------------------------------------------------------------------------------------------------


def updated(text: str, found: Sequence[Row], goals: Sequence[Goal] = GOALS) -> str:
    """README text with the claims between its markers. Raises ValueError where the markers are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no place for the results: add the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{claims(found, goals)}\n{END}{after}"


def wanted() -> dict[Path, str]:
    """File -> what it should hold."""
    found = rows(RESULTS)
    return {README: updated(README.read_text(), found), PAGE: page(found)}


def is_current() -> bool:
    """Whether both files hold exactly what the rows make."""
    return all(path.exists() and path.read_text() == text for path, text in wanted().items())


def write() -> None:
    for path, text in wanted().items():
        path.write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if a file is not up to date")
    if parser.parse_args().check:
        if is_current():
            return 0
        print(
            "README.md or benchmarks/results/README.md is not what the rows make: run `python benchmarks/report.py`",
            file=sys.stderr,
        )
        return 1
    write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
