"""The metrics of several replicas as one page in Prometheus' text format: each sample says whose it is."""

from __future__ import annotations

import re
from collections.abc import Mapping

SAMPLE = re.compile(r"([A-Za-z_:][A-Za-z0-9_:]*)(\{)?(.*)")


def merged(pages: Mapping[tuple[str, str], str]) -> str:
    """One page of those of replicas: (model, replica) -> its own. The samples of a metric stand together, as they must."""
    about: dict[str, list[str]] = {}  # metric -> its HELP and TYPE
    samples: dict[str, list[str]] = {}
    for (model, replica), page in pages.items():
        metric = ""
        for line in page.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                metric = line.split(" ", 3)[2]
                told = about.setdefault(metric, [])
                if line not in told:
                    told.append(line)
            elif line and not line.startswith("#") and (found := SAMPLE.fullmatch(line)):
                name, labelled, rest = found.groups()
                labels = f'manta_model="{model}",manta_replica="{replica}"'
                own = "" if not labelled or rest.startswith("}") else ","
                text = f"{name}{{{labels}{own}{rest}" if labelled else f"{name}{{{labels}}}{rest}"
                samples.setdefault(metric or name, []).append(text)
    return "".join("\n".join([*about.get(metric, ()), *lines]) + "\n" for metric, lines in samples.items())
