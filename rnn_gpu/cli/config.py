"""Options from a file, TOML's or JSON's: those on the line win."""

import json
import tomllib
from pathlib import Path

import typer

from ..errors import ArgumentError


def from_file(context: typer.Context, path: Path | None):
    """The callback of `--config`: what the file says is each option's default."""
    if path is None:
        return path
    parse = {".toml": tomllib.loads, ".json": json.loads}.get(path.suffix.lower())
    if parse is None:
        raise ArgumentError(f"--config is {path}, expected a file that ends in .toml or .json")
    try:
        said = parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArgumentError(f"--config is {path}, which cannot be read: {error}") from None
    if not isinstance(said, dict):
        raise ArgumentError(f"--config is {path}, expected options by name")
    names = {one.name for one in context.command.params} - {"config", "help"}
    given = {key.replace("-", "_"): value for key, value in said.items()}
    unknown = sorted(set(given) - names)
    if unknown or len(given) < len(said):
        raise ArgumentError(
            f"--config is {path}, which has {unknown[0] if unknown else 'an option twice'}, "
            f"expected options of this command: {', '.join(sorted(map(str, names)))}"
        )
    context.default_map = given
    return path
