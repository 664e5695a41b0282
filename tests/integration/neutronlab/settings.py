"""Configuration files of Neutron, written from mappings."""

from collections.abc import Mapping
from pathlib import Path

Options = Mapping[str, Mapping[str, object]]
"""Section → option → value. None leaves an option out; a tuple or list is joined by commas."""


def merged(*layers: Options) -> dict[str, dict[str, object]]:
    """Lay options over each other; the later ones win."""
    result: dict[str, dict[str, object]] = {}
    for layer in layers:
        for section, options in layer.items():
            result.setdefault(section, {}).update(options)
    return result


def write(path: Path, options: Options) -> Path:
    """Write a configuration file in oslo.config's syntax and return its path."""
    lines = []
    for section, values in options.items():
        lines.append(f"[{section}]")
        lines += [f"{name} = {_text(value)}" for name, value in values.items() if value is not None]
        lines.append("")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return path


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
