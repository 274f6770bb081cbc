"""The wording that pages, captions and chapters share: numbers, durations, plurals, provenance, verdicts."""

from __future__ import annotations

import math
import re

from selfstab.records.claims import FAILS, SIGNS, UNTESTED, holds


def escaped(text: str) -> str:
    r"""Return plain text in a form that MyST shows unchanged.

    >>> print(escaped("A_b*"))
    A\_b\*
    """
    return re.sub(r"([\\`*_{}\[\]<>$#|~^])", r"\\\1", text)


def plural(count: int | str, noun: str) -> str:
    """Return a count with its noun.

    >>> plural(1, "thread"), plural("2, 4", "thread")
    ('1 thread', '2, 4 threads')
    """
    return f"{count} {noun}{'' if str(count) == '1' else 's'}"


def duration(seconds: float) -> str:
    """Return a time for a reader.

    >>> duration(3.21), duration(41.4), duration(200), duration(7500)
    ('3.2 s', '41 s', '3 min 20 s', '2 h 5 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def number(value: float, digits: int = 3) -> str:
    r"""Return a number for prose: ``digits`` significant digits, and powers of ten as a formula.

    >>> number(-0.12345), number(1234.5), number(float("nan"))
    ('−0.123', '1234', 'not a number')
    >>> print(number(2e-7))
    $2.00\times 10^{-7}$
    """
    value = float(value)
    if not math.isfinite(value):
        return "not a number" if math.isnan(value) else "infinite"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e5:
        decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0)
        return f"{value:.{decimals}f}".replace("-", "−")
    mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
    return rf"${mantissa}\times 10^{{{int(exponent)}}}$"


def as_text(value, digits: int = 4) -> str:
    """Return a recorded value as plain text: ``digits`` significant digits of a float, ``–`` if there is none.

    >>> as_text(0.123456), as_text(1234567.0), as_text(3), as_text(None), as_text("never"), as_text(-2e-7)
    ('0.1235', '1.235 × 10⁶', '3', '–', 'never', '−2 × 10⁻⁷')
    >>> as_text({"jax": "0.10.2", "seeds": [0, 1]})
    'jax 0.10.2, seeds 0, 1'
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {as_text(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(as_text, value))
    if not isinstance(value, float):
        return str(value)
    mantissa, _, exponent = f"{value:.{digits}g}".replace("-", "−").partition("e")
    if not exponent:
        return mantissa
    raised = str(int(exponent.replace("−", "-"))).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{raised}"


def with_spread(claim: dict) -> str:
    """Return a claim's measured value with the median and range over its runs, or its interval, if there is one.

    >>> with_spread({"measured": 1.0371, "spread": 0.0213}), with_spread({"measured": None, "spread": 0.0})
    ('1.037 ± 0.021', '–')
    >>> with_spread({"measured": 1.0371, "each": {"count": 5, "least": 0.86, "median": 0.9612, "most": 1.0371}})
    '1.037 (of 5: median 0.961, 0.86 to 1.04)'
    """
    measured = as_text(claim["measured"])
    if each := claim.get("each"):
        least, median, most = (
            "∞" if each[name] is None else as_text(each[name], 3) for name in ("least", "median", "most")
        )
        return f"{measured} (of {each['count']}: median {median}, {least} to {most})"
    return f"{measured} ± {as_text(claim['spread'], 2)}" if claim["spread"] else measured


def allowed(claim: dict) -> str:
    """Return the values that a claim's tolerance allows.

    >>> allowed({"relation": "equals", "predicted": 1.0, "tolerance": 0.02})
    '1 ± 0.02'
    >>> allowed({"relation": "at least", "predicted": 1.0, "tolerance": 0.15})
    '≥ 0.85'
    """
    relation, predicted, tolerance = (claim[name] for name in ("relation", "predicted", "tolerance"))
    if relation == "equals" or predicted is None:
        return f"{as_text(predicted)} ± {as_text(tolerance, 2)}"
    return f"≤ {as_text(predicted + tolerance)}" if relation == "at most" else f"≥ {as_text(predicted - tolerance)}"


def null_models(claim: dict) -> str:
    """Return what a claim's null models give, and which of them pass it.

    >>> nulls = [{"name": "no force", "measured": 0.962, "verdict": "does not hold"}]
    >>> null_models({"nulls": [*nulls, {"name": "half of it", "measured": 0.999, "verdict": "holds"}]})
    'no force: 0.962; half of it: 0.999 (passes)'
    """
    passes = {True: " (passes)", False: ""}
    return "; ".join(f"{null['name']}: {as_text(null['measured'])}{passes[holds(null)]}" for null in claim["nulls"])


def provenance_line(provenance: dict, *, full: bool = False) -> str:
    """Return a figure's scale, seeds, device, time and commit in one line; ``full`` adds the digest of the code."""
    commit = str(provenance["commit"])
    facts = [
        f"{provenance['scale']} scale",
        f"seed {as_text(provenance['seed'])}",
        f"{provenance['device']}, {plural(provenance['threads'], 'thread')}",
        f"{duration(float(provenance['seconds']))} of computing",
        f"commit {commit if full else commit[:9]}",
        *([f"library {provenance['library_digest']}"] if full else []),
    ]
    return " · ".join(facts)


def either(values: list) -> str:
    """Return alternatives in words.

    >>> either([1]), either([1, 2]), either([1, 2, 16])
    ('1', '1 or 2', '1, 2 or 16')
    """
    *others, last = map(str, values)
    return f"{', '.join(others)} or {last}" if others else last


def recording_note(*runs, pilots: int = 0) -> str:
    """Return a sentence for a caption: steps, computing time and machine of recorded runs (xarray datasets).

    ``pilots`` is how many of them were followed for less than two cycles.
    """
    several = len(runs) > 1
    lengths = {run.sizes.get("t", 0) for run in runs}
    steps = " to ".join(f"{length:,}" for length in sorted({min(lengths), max(lengths)}))
    devices, cores = (either(sorted({run.attrs[name] for run in runs})) for name in ("device", "threads"))
    minutes = f"{sum(float(run.attrs['seconds']) for run in runs) / 60:.0f}"
    note = (
        f"{f'{len(runs)} runs recorded' if several else 'Recorded'}: "
        f"{steps} steps{' each' if several else ''}, {plural(minutes, 'minute')}{' in all' if several else ''} "
        f"on {devices} ({plural(cores, 'core')})."
    )
    if pilots:
        which = f"{pilots} of them {'is a pilot' if pilots == 1 else 'are pilots'}" if several else "A pilot"
        note += f" {which}, of less than two cycles."
    return note


def summarize_verdicts(claims: list[dict], which: str, where: str) -> str:
    """Return how many of the claims hold, and the sentence of each that does not, as MyST.

    ``which`` names them, as in "every claim of this page", and ``where`` what they were judged on.
    """
    holding = sum(map(holds, claims))
    if holding == len(claims):
        return f"{SIGNS['holds']} Every claim {which} holds ({len(claims)} of {len(claims)}, {where})."
    told = f"{holding} of {len(claims)} claims {which} hold ({where})."
    for verdict, words in ((FAILS, "Not found true"), (UNTESTED, "Not tested, as a null model passes too")):
        if found := [f"*{claim['sentence']}*" for claim in claims if claim["verdict"] == verdict]:
            told += f" {SIGNS[verdict]} {words}: {' '.join(found)}"
    return told
