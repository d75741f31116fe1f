"""Write the exact versions that `uv lock` found into pyproject.toml, where they are committed.

    uv lock --upgrade && uv run python -m scripts.pin

The lock file itself carries download addresses and is not committed. Where it has several versions of
a package (for different Pythons), the oldest is pinned: it runs on all of them.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from packaging.version import Version

PROJECT = Path(__file__).parents[1]
BLOCK = re.compile(r"constraint-dependencies = \[\n.*?^\]\n", re.MULTILINE | re.DOTALL)


def main() -> None:
    """Rewrite the block."""
    lock = tomllib.loads((PROJECT / "uv.lock").read_text(encoding="utf-8"))
    versions: dict[str, Version] = {}
    for package in lock["package"]:
        if "registry" in package["source"]:
            found = Version(package["version"])
            versions[package["name"]] = min(found, versions.get(package["name"], found))
    lines = "".join(f'    "{name}=={version}",\n' for name, version in sorted(versions.items()))
    path = PROJECT / "pyproject.toml"
    block = f"constraint-dependencies = [\n{lines}]\n"
    path.write_text(BLOCK.sub(lambda _: block, path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
