"""`parity.json` of a bundle: the comparisons of its graphs with torch at export."""

import json
from dataclasses import dataclass, field
from typing import Any

from .bundle import Bundle
from .errors import BundleError
from .strict import MismatchError, decode

PARITY_FILE = "parity.json"


@dataclass(frozen=True)
class VariantRecord:
    """One precision: SHA-256 of its measured graphs, reasons for graphs that stayed in fp32, and the figures."""

    graphs: dict[str, str]
    versions: dict[str, str]
    kept_fp32: dict[str, str]
    facts: dict[str, Any]
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class ParityFile:
    """SHA-256 of the measured fp32 graphs, their comparisons with torch, and the other precisions by name."""

    graphs: dict[str, str]
    rows: tuple[dict[str, Any], ...]
    variants: dict[str, VariantRecord] = field(default_factory=dict)

    def measured(self, precision: str) -> dict[str, str]:
        """SHA-256 by name of the graphs measured in `precision`."""
        if precision == "fp32":
            return self.graphs
        return self.variants[precision].graphs if precision in self.variants else {}


def read_parity(bundle: Bundle) -> ParityFile:
    """Read `parity.json`. Raises `BundleError` unless the file is there, unchanged and complete."""
    what = f"{bundle.origin}: {PARITY_FILE}"
    try:
        return decode(ParityFile, json.loads(bundle.read(PARITY_FILE)), PARITY_FILE)
    except (ValueError, RecursionError, MismatchError) as error:
        raise BundleError(f"{what} is not what an export writes: {error}") from error


def kept_fp32(bundle: Bundle) -> list[tuple[str, str, str]]:
    """Rows (precision, graph, reason) of the graphs that stayed in float32 in another precision."""
    if PARITY_FILE not in bundle.manifest.files:
        return []
    variants = read_parity(bundle).variants
    return [(name, *kept) for name, record in variants.items() for kept in record.kept_fp32.items()]
