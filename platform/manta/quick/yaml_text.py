"""A raw recipe as YAML that people read: one setting a line, behind it the reason where there is one."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml


def dump(raw: Mapping[str, Any], reasons: Mapping[str, str], prefix: str = "", indent: str = "") -> str:
    """YAML text of nested mappings, in their order; `reasons` by dotted path."""
    lines = []
    for key, value in raw.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{key}:\n{dump(value, reasons, f'{path}.', f'{indent}  ')}")
        else:
            lines.append(f"{indent}{key}: {plain(value)}{f' # {reasons[path]}' if path in reasons else ''}\n")
    return "".join(lines)


def plain(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, str) and not value.isprintable():
        return json.dumps(value)
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=2**31)
    return str(text.removesuffix("\n").removesuffix("\n..."))
