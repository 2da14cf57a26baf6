"""Makes the lock files: every package of a profile at one version, and proof that each package gets what it asks for.

    python requirements/lock.py cpu gpu dev ...       resolve again and write; versions already locked are kept
    python requirements/lock.py --upgrade cpu ...     take the newest versions that *.in allows
    python requirements/lock.py --check               compare the locks with this environment; nothing is fetched

A lock is installed with `pip install --no-deps`, because no resolver accepts it: some packages pin what others cannot
live with. Each such case stands in overrides.toml with its reason. Needs the package `packaging`, so run it with
.venv/bin/python. Locks are for CPython 3.11 on Linux x86_64.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HERE = Path(__file__).resolve().parent
# lock -> the locks it is installed on top of; what those hold is not repeated in it.
LOCKS: dict[str, tuple[str, ...]] = {
    "cpu": (),
    "gpu": (),
    **dict.fromkeys(("dev", "smollm2", "bench", "harness"), ("cpu",)),
}
# What belongs to every environment: Manta is installed into it without a network, by this setuptools.
ALWAYS = ("setuptools>=77", "pydantic>=2.11", "PyYAML>=6", "fsspec")
# Installed by other means than a lock.
OUTSIDE = frozenset({"manta", "pip"})


@dataclass(frozen=True)
class Override:
    """One requirement that a lock does not meet on purpose."""

    package: str
    wants: str
    locks: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Package:
    """A package as its metadata describes it; `requires` are its Requires-Dist lines."""

    name: str
    version: str
    requires: tuple[str, ...]


def overrides(lock: str) -> dict[tuple[str, str], Override]:
    """The overrides of a lock by (package, what it wants), names in canonical form."""
    data = tomllib.loads((HERE / "overrides.toml").read_text())
    entries = [Override(locks=tuple(item.pop("locks")), **item) for item in data["override"]]
    return {(canonicalize_name(e.package), canonicalize_name(e.wants)): e for e in entries if lock in e.locks}


def read_requirements(path: Path) -> list[Requirement]:
    """The requirements of a file, comments left out."""
    lines = [line.partition("#")[0].strip() for line in path.read_text().splitlines()]
    return [Requirement(line) for line in lines if line]


def read_lock(lock: str) -> dict[str, str]:
    """Canonical name -> version. Raises ValueError on a line that is not an exact pin."""
    pins: dict[str, str] = {}
    for requirement in read_requirements(HERE / f"{lock}.lock"):
        exact = [item for item in requirement.specifier if item.operator in ("==", "===") and "*" not in item.version]
        if (
            len(exact) != 1
            or len(requirement.specifier) != 1
            or requirement.url
            or requirement.marker
            or requirement.extras
        ):
            raise ValueError(f"{lock}.lock: {requirement} is not NAME==VERSION")
        pins[canonicalize_name(requirement.name)] = exact[0].version
    return pins


# --- does every package get what it asks for -------------------------------------------------------------------------


def wanted(package: Package, extras: Iterable[str]) -> list[Requirement]:
    """What a package requires on this platform, with these extras of it."""
    chosen = {"", *extras}
    found = [Requirement(line) for line in package.requires]
    return [
        item for item in found if item.marker is None or any(item.marker.evaluate({"extra": extra}) for extra in chosen)
    ]


def problems(
    packages: Mapping[str, Package], roots: Iterable[Requirement], allowed: Iterable[tuple[str, str]]
) -> list[str]:
    """Everything that the set of packages leaves unsatisfied without an override, and overrides without a cause."""
    allowed = set(allowed)
    used: set[tuple[str, str]] = set()
    found: list[str] = []
    extras: dict[str, set[str]] = {name: set() for name in packages}
    pending = [("", root) for root in roots]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        asker, requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        package = packages.get(name)
        if package is None or not requirement.specifier.contains(package.version, prereleases=True):
            has = "nothing" if package is None else package.version
            if (asker, name) in allowed:
                used.add((asker, name))
            else:
                found.append(f"{asker or 'the .in file'} wants {requirement}, the lock has {has}")
        if package is None:
            continue
        extras[name] |= requirement.extras
        if (state := (name, frozenset(extras[name]))) not in seen:
            seen.add(state)
            pending += [(name, item) for item in wanted(package, extras[name])]
    found += [
        f"{name} is in the lock but nothing asks for it" for name in sorted(set(packages) - {name for name, _ in seen})
    ]
    found += [f"overrides.toml: {a} wants {b} is satisfied now: remove the entry" for a, b in sorted(allowed - used)]
    return sorted(set(found))


# --- resolving -------------------------------------------------------------------------------------------------------


def pip_report(requirements: Iterable[str], constraints: Iterable[str], with_dependencies: bool) -> dict[str, Package]:
    """What pip would install for `requirements` on an empty machine, without installing it.

    pip fetches the wheels of packages whose index does not serve metadata alone, so this can take minutes.
    """
    with tempfile.TemporaryDirectory() as scratch:
        limits, report = Path(scratch) / "constraints.txt", Path(scratch) / "report.json"
        limits.write_text("\n".join(constraints) + "\n")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
            "--quiet",
            "--report",
            str(report),
        ]
        command += [] if with_dependencies else ["--no-deps"]
        done = subprocess.run([*command, "-c", str(limits), *requirements], capture_output=True, text=True, check=False)
        if done.returncode:
            told = [line for line in done.stderr.splitlines() if not line.startswith("WARNING")]
            raise SystemExit("pip cannot resolve this:\n" + "\n".join(told[-30:]))
        items = json.loads(report.read_text())["install"]
    made = [_from_report(item["metadata"]) for item in items]
    return {canonicalize_name(package.name): package for package in made}


def _from_report(data: Mapping[str, Any]) -> Package:
    return Package(data["name"], data["version"], tuple(data.get("requires_dist", ())))


def roots_of(lock: str) -> list[Requirement]:
    always = [] if LOCKS[lock] else [Requirement(line) for line in ALWAYS]
    return [*read_requirements(HERE / f"{lock}.in"), *always]


def resolve(lock: str, upgrade: bool) -> dict[str, Package]:
    """All packages that a lock's roots need, those of the locks below it among them.

    Packages with overrides are looked up alone; what is left of their wishes joins the roots, and pip resolves those.
    """
    allowed = overrides(lock)
    stubborn = {asker for asker, _ in allowed}
    roots = roots_of(lock)
    alone = [root for root in roots if canonicalize_name(root.name) in stubborn]
    packages = pip_report(map(str, alone), (), with_dependencies=False) if alone else {}
    rest = [root for root in roots if root not in alone]
    for name, package in packages.items():
        extras = {extra for root in alone if canonicalize_name(root.name) == name for extra in root.extras}
        mine = wanted(package, extras)
        rest += [_without_marker(item) for item in mine if (name, canonicalize_name(item.name)) not in allowed]
    kept = [
        f"{name}{_equals(version, lock)}{version}"
        for name, version in _pins(lock, upgrade).items()
        if name not in packages
    ]
    return packages | pip_report(map(str, rest), kept, with_dependencies=True)


def _pins(lock: str, upgrade: bool) -> dict[str, str]:
    pins: dict[str, str] = {}
    for name in (*LOCKS[lock], *(() if upgrade else (lock,))):
        if (HERE / f"{name}.lock").exists():
            pins |= read_lock(name)
    return pins


def _without_marker(requirement: Requirement) -> Requirement:
    bare = Requirement(str(requirement))
    bare.marker = None
    return bare


def _equals(version: str, lock: str) -> str:
    """`==2.13.0` also accepts 2.13.0+cpu; `===` does not, which matters where both builds are on offer."""
    return "===" if lock == "gpu" and re.fullmatch(r"[\d.]+", version) else "=="


def write(lock: str, upgrade: bool) -> None:
    packages = resolve(lock, upgrade)
    if found := problems(packages, roots_of(lock), overrides(lock)):
        raise SystemExit(f"{lock}: add to overrides.toml with a reason, or change {lock}.in:\n  " + "\n  ".join(found))
    below = {name for other in LOCKS[lock] for name in read_lock(other)}
    kept = sorted((p for name, p in packages.items() if name not in below), key=lambda p: canonicalize_name(p.name))
    lines = [f"{p.name}{'===' if p.name == 'torch' and lock == 'gpu' else '=='}{p.version}" for p in kept]
    head = f"# Made by requirements/lock.py from {lock}.in: change that file and run it again. Installed with pip install --no-deps."
    (HERE / f"{lock}.lock").write_text("\n".join([head, *lines]) + "\n")
    print(f"{lock}.lock: {len(lines)} packages")


# --- checking --------------------------------------------------------------------------------------------------------


def installed() -> dict[str, Package]:
    found = metadata.distributions()
    made = [Package(item.metadata["Name"], item.version, tuple(item.requires or ())) for item in found]
    return {canonicalize_name(package.name): package for package in made}


def set_up() -> list[str]:
    """The locks that this environment was made from, as install.py noted them."""
    stamp = Path(sys.prefix) / "manta-setup.json"
    made = json.loads(stamp.read_text()) if stamp.exists() else {"profile": "cpu", "extras": []}
    return [made["profile"], "dev", *made["extras"]]


def check(locks: Iterable[str]) -> list[str]:
    """What is wrong with these locks, seen from the environment this runs in."""
    found: list[str] = []
    here = installed()
    locks = list(locks)
    pins = {name: version for lock in locks for name, version in read_lock(lock).items()}
    for name, version in pins.items():
        has = here[name].version if name in here else "nothing"
        if has != version:
            found.append(f"{name} is locked at {version}, installed is {has}: run `make env`")
    known = {name: here[name] for name in pins if name in here}
    for lock in locks:
        below = LOCKS[lock]
        names = {name for layer in (*below, lock) for name in read_lock(layer)}
        roots = [root for layer in (*below, lock) for root in roots_of(layer)]
        allowed = [key for layer in (*below, lock) for key in overrides(layer)]
        found += problems({name: known[name] for name in names & set(known)}, roots, allowed)
    return sorted(set(found))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "locks", nargs="*", choices=[*LOCKS, []], metavar="LOCK", help=f"{', '.join(LOCKS)} (default: all)"
    )
    parser.add_argument("--upgrade", action="store_true", help="forget the locked versions")
    parser.add_argument("--check", action="store_true", help="compare with this environment, write nothing")
    options = parser.parse_args()
    if options.check:
        found = check(options.locks or set_up())
        print("\n".join(found) or "the environment is what the locks say")
        return 1 if found else 0
    for lock in options.locks or LOCKS:
        write(lock, options.upgrade)
    return 0


if __name__ == "__main__":
    sys.exit(main())
