"""Attacks made from the section `red_team` of params.yaml."""

from __future__ import annotations

from safeclip import settings
from safeclip.core.guard import Guard
from safeclip.redteam.image import ImageAlteration, PgdAttack, UniversalImageAttack, blur, crop, jpeg, overlay
from safeclip.redteam.model import RelearningAttack
from safeclip.redteam.runner import Attack, EmbeddingAttack
from safeclip.redteam.space import LinearMapAttack, OffsetAttack, ProjectionAttack
from safeclip.redteam.text import GradientTokensAttack, SubstituteTokensAttack, Synonyms, make_rewording


def make_attacks(
    cfg: settings.Attack, seed: int, guard: Guard, batch_size: int, synonyms: Synonyms | None
) -> list[Attack]:
    """Make the attack that one entry of `red_team.attacks` describes; some make one a budget or direction.

    batch_size: images that an attack puts through the encoder at once.
    synonyms: of `paraphrase`.
    """
    match cfg:
        case settings.Wording():
            return [make_rewording(cfg.kind, cfg.tries, seed, synonyms)]
        case settings.Crop():
            return [ImageAlteration("crop", lambda image, query: crop(image, cfg.keep))]
        case settings.Blur():
            return [ImageAlteration("blur", lambda image, query: blur(image, cfg.radius))]
        case settings.Jpeg():
            return [ImageAlteration("jpeg", lambda image, query: jpeg(image, cfg.quality))]
        case settings.Overlay():
            return [ImageAlteration("overlay", lambda image, query: overlay(image, " ".join(query.added)))]
        case settings.SubstituteTokens():
            return [SubstituteTokensAttack(cfg.budget, seed, guard)]
        case settings.GradientTokens():
            return [GradientTokensAttack(cfg.words, cfg.steps, cfg.candidates)]
        case settings.Pgd():
            return [PgdAttack(cfg.levels, cfg.steps, batch_size)]
        case settings.UniversalImage():
            return [UniversalImageAttack(cfg.levels, cfg.steps)]
        case settings.Offset():
            offsets = [OffsetAttack(pairs) for pairs in cfg.pairs]
            return [EmbeddingAttack(attack, way) for attack in offsets for way in attack.ways]
        case settings.Projection():
            return [EmbeddingAttack(ProjectionAttack(), way) for way in ProjectionAttack.ways]
        case settings.LinearMap():
            return [EmbeddingAttack(LinearMapAttack(), way) for way in LinearMapAttack.ways]
        case settings.Relearning():
            return [RelearningAttack(steps, cfg.batch_size, cfg.learning_rate, seed) for steps in cfg.steps]
