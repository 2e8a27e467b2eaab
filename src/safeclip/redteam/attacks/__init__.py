"""Attacks by the section of params.yaml that asks for them; each is a file of its own."""

from __future__ import annotations

from safeclip.redteam.attacks import homoglyphs, leetspeak, misspelling, negation, paraphrase, word_order
from safeclip.redteam.attacks.alterations import AlteringAttack
from safeclip.redteam.attacks.blur import blur
from safeclip.redteam.attacks.crop import crop
from safeclip.redteam.attacks.jpeg import jpeg
from safeclip.redteam.attacks.overlay import overlay
from safeclip.redteam.attacks.words import WordingAttack
from safeclip.redteam.queries import ImageAttack, TextAttack
from safeclip.settings.red_team import Attack, Blur, Crop, Jpeg, Wording

REWORDINGS = {
    "paraphrase": paraphrase.reword,
    "misspelling": misspelling.reword,
    "leetspeak": leetspeak.reword,
    "homoglyphs": homoglyphs.reword,
    "word_order": word_order.reword,
    "negation": negation.reword,
}


def make_attack(how: Attack, seed: int) -> TextAttack | ImageAttack:
    """The attack that a section describes, with its randomness drawn from `seed`."""
    match how:
        case Wording():
            return WordingAttack(how.kind, REWORDINGS[how.kind], how.tries, seed)
        case Crop():
            return AlteringAttack(how.kind, lambda picture, query: crop(picture, how.keep))
        case Blur():
            return AlteringAttack(how.kind, lambda picture, query: blur(picture, how.radius))
        case Jpeg():
            return AlteringAttack(how.kind, lambda picture, query: jpeg(picture, how.quality))
        case _:
            return AlteringAttack(how.kind, lambda picture, query: overlay(picture, " ".join(query.added)))
