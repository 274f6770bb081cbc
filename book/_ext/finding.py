r"""The search by readers' words: symbols are spelled in one way in index and query, and the index has synonyms.

>>> words = Finding({}).split
>>> words(r"\nabla S"), words("∇S"), words("S(θ)"), words(r"S(\theta)"), words("lambda_2")
(['∇sharpness'], ['∇sharpness'], ['sharpness'], ['sharpness'], ['λ₂'])
>>> words("projected gradient descent")
['projected', 'gradient', 'descent', 'PGD']
"""

from __future__ import annotations

import json
import re
from typing import Any

from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

LETTERS = {
    "alpha": "α", "beta": "β", "gamma": "γ", "delta": "δ", "epsilon": "ε", "eta": "η", "theta": "θ", "kappa": "κ",
    "lambda": "λ", "Lambda": "Λ", "rho": "ρ", "sigma": "σ",
}  # fmt: skip
#: Spellings, as expressions that Python and JavaScript read alike, and what is searched instead; in this order.
SPELLINGS = [
    *((rf"(?:\\|\b){name}(?![a-zA-Z])", f"{letter} ") for name, letter in LETTERS.items()),
    *((rf"λ\s*_?\s*\{{?{digit}\}}?(?![0-9])", f" λ{low} ") for digit, low in zip("123", "₁₂₃")),
    (r"\b[Ss]\s*\(\s*θ\s*\)", " sharpness "),
    (r"(?:∇|\\nabla)\s*[Ss](?![a-zA-Z])", " ∇sharpness "),  # stemmers take an s off a word so short as ∇S
]
#: What is one word, though it is not one of letters.
SYMBOLS = ("∇sharpness",)
#: Words by which a passage is found too, although it uses others.
SYNONYMS = {
    "PGD": r"projected gradient|projection onto the stable set",
    "EoS": r"edge of stability",
    "GPU": r"\baccelerators?\b|\banother device\b|\bcores each\b",
    "licence": r"\blicense",
    "citation": r"\bcit(e|ed|ing)\b|\bbibliography\b",
    "stepsize": r"\blearning rates?\b|\bstep sizes?\b",
    "dataset": r"\bdata sets?\b",
    "HVP": r"\bHessian-vector products?\b",
    "optimiser": r"\boptimizers?\b",
}


class Finding(SearchEnglish):
    """English, with the spellings and synonyms above."""

    _word = re.compile("|".join((*SYMBOLS, r"\w+")))
    js_splitter_code = f"""
var splitQuery = (query) => {{
  for (const [spelling, word] of {json.dumps(SPELLINGS)}) query = query.replace(new RegExp(spelling, "g"), word);
  return query.match(/{"|".join(SYMBOLS)}|[\\p{{Letter}}\\p{{Number}}_\\p{{Emoji_Presentation}}]+/giu) || [];
}};
"""

    def split(self, input: str) -> list[str]:
        """Return the words of a text, and the synonyms of what it contains."""
        found = [word for word, known in SYNONYMS.items() if re.search(known, input, re.IGNORECASE)]
        for spelling, word in SPELLINGS:
            input = re.sub(spelling, word, input)
        return self._word.findall(input) + found


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the language in the place of Sphinx's English."""
    app.add_search_language(Finding)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
