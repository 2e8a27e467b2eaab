"""Attacks by the section of params.yaml that asks for them; each is a file of its own."""

from __future__ import annotations

from safeclip.core.guard import Guard
from safeclip.redteam import image as pgd
from safeclip.redteam import model as gradient_tokens
from safeclip.redteam import model as relearning
from safeclip.redteam import model as substitute_tokens
from safeclip.redteam import model as universal_image
from safeclip.redteam import text as homoglyphs
from safeclip.redteam import text as leetspeak
from safeclip.redteam import text as misspelling
from safeclip.redteam import text as negation
from safeclip.redteam import text as paraphrase
from safeclip.redteam import text as word_order
from safeclip.redteam.image import AlteringAttack, blur, crop, jpeg, overlay
from safeclip.redteam.queries import AnyAttack
from safeclip.redteam.text import WordingAttack
from safeclip.settings import (
    Attack,
    Blur,
    Crop,
    GradientTokens,
    Jpeg,
    Overlay,
    Pgd,
    Relearning,
    SubstituteTokens,
    UniversalImage,
    Wording,
)

REWORDINGS = {
    "paraphrase": paraphrase.reword,
    "misspelling": misspelling.reword,
    "leetspeak": leetspeak.reword,
    "homoglyphs": homoglyphs.reword,
    "word_order": word_order.reword,
    "negation": negation.reword,
}


def make_attacks(how: Attack, seed: int, guard: Guard, batch_size: int) -> list[AnyAttack]:
    """The attack that a section describes (several, where it has several budgets), seeded."""
    match how:
        case Wording():
            return [WordingAttack(how.kind, REWORDINGS[how.kind], how.tries, seed)]
        case Crop():
            return [AlteringAttack(how.kind, lambda picture, query: crop(picture, how.keep))]
        case Blur():
            return [AlteringAttack(how.kind, lambda picture, query: blur(picture, how.radius))]
        case Jpeg():
            return [AlteringAttack(how.kind, lambda picture, query: jpeg(picture, how.quality))]
        case Overlay():
            return [AlteringAttack(how.kind, lambda picture, query: overlay(picture, " ".join(query.added)))]
        case SubstituteTokens():
            return [substitute_tokens.SubstituteTokens(how.budget, seed, guard)]
        case GradientTokens():
            return [gradient_tokens.GradientTokens(how.words, how.steps, how.candidates)]
        case Pgd():
            return [pgd.Pgd(how.levels, how.steps, batch_size)]
        case UniversalImage():
            return [universal_image.UniversalImage(how.levels, how.steps)]
        case Relearning():
            return [
                relearning.Relearning(steps, how.batch_size, how.learning_rate, seed) for steps in how.steps
            ]
