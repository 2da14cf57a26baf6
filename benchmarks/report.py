"""Writes the README's results table from the rows in benchmarks/results; `--check` only says whether it is up to date."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def rows(folder: Path) -> list[dict[str, Any]]:
    """All rows, by benchmark and date."""
    found = [row for path in sorted(folder.glob("*.json")) for row in json.loads(path.read_text())]
    return sorted(found, key=lambda row: (row["benchmark"], row["date"]))


def table(found: list[dict[str, Any]]) -> str:
    """Markdown: one line per figure; benchmarks that failed have a line that says so."""
    if not found:
        return "No benchmark has been recorded yet: `make bench` records them."
    lines = ["| question | figure | median | min to max | machine, commit, date |", "|---|---|---|---|---|"]
    for row in found:
        where = _where(row)
        mode = " (quick)" if row["settings"].get("quick") else ""
        question = f"{row['question']}{mode}"
        for name, shown in row["figures"].items():
            lines.append(f"| {question} | `{name}` | {_value(shown, 'median')} | {_range(shown)} | {where} |")
            question = where = ""
        if row["error"]:
            lines.append(f"| {question} | failed | | {_cell(row['error'])[:200]} | {where} |")
    commands = sorted({row["command"] for row in found})
    lines += [
        "",
        "Made by " + ", ".join(f"`{command}`" for command in commands) + "; every run is in `benchmarks/results/`.",
    ]
    return "\n".join(lines)


def _where(row: Mapping[str, Any]) -> str:
    hardware = row["hardware"]
    gpus = "".join(f", {name}" for name in hardware["gpus"])
    commit = (row["commit"] or "no commit")[:9] + ("+" if row["dirty"] else "")
    return _cell(f"{hardware['cores']} cores of {hardware.get('cpu', 'unknown')}{gpus}; {commit}; {row['date'][:10]}")


def _value(shown: Mapping[str, Any], key: str) -> str:
    if shown.get(key) is None:
        return "none"
    return f"{shown[key]:g}{shown['unit'] if shown['unit'] == 'x' else ' ' + shown['unit'] if shown['unit'] else ''}"


def _range(shown: Mapping[str, Any]) -> str:
    return f"{shown['min']:g} to {shown['max']:g}" if len(shown.get("values", ())) > 1 else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def updated(text: str, found: list[dict[str, Any]]) -> str:
    """README text with the table between its markers. Raises ValueError where the markers are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md has no place for the results: add the lines {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{table(found)}\n{END}{after}"


def is_current() -> bool:
    """Whether the README holds exactly the table that the rows make."""
    text = README.read_text()
    return updated(text, rows(RESULTS)) == text


def write() -> None:
    README.write_text(updated(README.read_text(), rows(RESULTS)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the README is not up to date")
    if parser.parse_args().check:
        if is_current():
            return 0
        print(
            "README.md's results table is not what benchmarks/results makes: run `python benchmarks/report.py`",
            file=sys.stderr,
        )
        return 1
    write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
