"""Fetches the libraries of the page: `python -m scripts.vendor` writes `acestep/page/vendor` through npm.

`vendor.json` is the lock. To take another version, change it there and run this; the hashes are written anew.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import acestep

FOLDER = Path(acestep.__file__).parent / "page" / "vendor"
LOCK = FOLDER / "vendor.json"
_IMPORT = re.compile(r"""(\bfrom\s*|\bimport\s*)(["'])([@a-z][^"']*)\2""")
_SOURCE_MAP = re.compile(r"\n?//# sourceMappingURL=\S+\s*$")


def main() -> None:
    """Entry point."""
    if shutil.which("npm") is None:
        sys.exit("npm is not installed; it is needed to fetch the libraries of the page")
    lock = json.loads(LOCK.read_text(encoding="utf-8"))
    files = {package["name"]: package["file"] for package in lock}
    for package in lock:
        source, licence = fetch(package)
        text = with_local_imports(source, files)
        (FOLDER / package["file"]).write_text(text, encoding="utf-8")
        (FOLDER / package["licence"]).write_text(licence, encoding="utf-8")
        package["sha256"] = sha256(FOLDER / package["file"])
    LOCK.write_text(json.dumps(lock, indent=2) + "\n", encoding="utf-8")


def fetch(package: dict[str, Any]) -> tuple[str, str]:
    """The module of a package and its licence, as published."""
    name = package["name"].removesuffix("/" + package.get("entry", ""))
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", f"{name}@{package['version']}"]
        packed = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
        with tarfile.open(Path(folder) / packed.stdout.strip().splitlines()[-1]) as archive:
            return _member(archive, package["module"]), _member(archive, "LICENSE")


def _member(archive: tarfile.TarFile, name: str) -> str:
    found = archive.extractfile(f"package/{name}")
    assert found is not None, f"{name} is no file of the package"
    return found.read().decode("utf-8")


def with_local_imports(source: str, files: dict[str, str]) -> str:
    """The module with names of packages turned into files beside it, and without its source map."""
    local = _IMPORT.sub(lambda found: f"{found[1]}{found[2]}./{files[found[3]]}{found[2]}", source)
    return _SOURCE_MAP.sub("", local).rstrip() + "\n"


def sha256(path: Path) -> str:
    """The hash of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
