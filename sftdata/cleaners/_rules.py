"""What a slop rule is: its categories, actions, patterns and scope; `_packs.py` reads them, `_matching.py` applies them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

CATEGORIES = (
    "ai_identity",
    "refusal",
    "moralising",
    "cutoff_disclaimer",
    "service_boilerplate",
    "template_leak",
    "style_slop",
)
ACTIONS = ("drop_sample", "drop_turn", "mask_loss", "strip_sentence", "down_weight", "flag")
"""From the strongest to the weakest: the strongest action of a text's hits is its answer."""

BOUNDARIES = ("word", "cjk", "none")
PLACES = ("prefix", "suffix", "sentence", "anywhere")
ROLES = ("system", "user", "assistant", "tool", "source", "target", "text")
PATTERN_KINDS = ("literal", "regex", "lexicon")


class Rule(NamedTuple):
    """One rule of a pack."""

    id: str
    category: str
    kind: str
    """`literal`, `regex` or `lexicon`."""
    patterns: tuple[str, ...]
    """Folded phrases; for a regex its anchors."""
    regex: re.Pattern[str] | None
    beside: re.Pattern[str] | None
    """Folded phrases of which a sentence with an anchor must hold one too before the regex is tried; None: none needed."""
    beside_phrases: tuple[str, ...]
    """Those of `beside`, folded; empty: none needed."""
    sentences: int
    """Regex: how many sentences a match may span, 1 or 2: the one that holds the anchor, and the one before it."""
    boundary: str
    """`word`: no letter or digit on either side; `cjk`: none, and no Han character, to the right; `none`."""
    where: str
    """`prefix` and `suffix`: in the first or last two sentences; `sentence`: at the start of one; `anywhere`."""
    roles: tuple[str, ...]
    severity: float
    action: str
    weight: float
    """The factor on the loss where the action is `down_weight`."""
    density: float
    """Lexicon: hits per 1,000 words or Han characters from which the rule fires."""
    source: str
    must_fire: tuple[str, ...]
    must_not_fire: tuple[str, ...]

    @property
    def at_start_only(self) -> bool:
        """Whether the regex matches at the start of a text alone."""
        return self.regex is not None and self.regex.pattern.startswith("^")


class Request(NamedTuple):
    """What a user may ask for that makes a phrase legitimate: a translation of it, a robot's part in a play."""

    id: str
    exempts: tuple[str, ...]
    """Categories whose rules then do not fire."""
    every: tuple[re.Pattern[str], ...]
    """All must be found in the folded prompt."""
    unless_answer: re.Pattern[str] | None
    """Found in the folded answer, it voids the exemption."""


@dataclass(frozen=True)
class Pack:
    """One file of rules."""

    id: str
    language: str
    path: Path
    rules: tuple[Rule, ...]
    requests: tuple[Request, ...]
    variants: dict[str, str] = field(default_factory=dict)
