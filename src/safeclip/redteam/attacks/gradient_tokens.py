"""Harmless words appended to an unsafe caption, chosen by the text tower's gradient.

HotFlip (Ebrahimi et al., arXiv 1712.06751) ranks replacements of a token by the first-order change of the
objective; GCG (Zou et al., arXiv 2307.15043) tries the best of them and keeps what works. The words come
from safe captions of the tuning half, one token each, so what is appended names nothing unsafe.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from safeclip.encoders.embed import embed_texts
from safeclip.encoders.load import Encoder
from safeclip.evaluation.retrieval import MixedGallery
from safeclip.redteam.attacks.tuning import margin, tuning_half
from safeclip.redteam.queries import Access, Query, Victim


class GradientTokens:
    """`steps` rounds: each appended word in turn is exchanged for the best of the `candidates` tried."""

    name = "gradient_tokens"
    access: Access = "white box"

    def __init__(self, words: int, steps: int, candidates: int) -> None:
        self._words, self._steps, self._candidates = words, steps, candidates
        self.budget = steps * candidates

    def captions(self, queries: Sequence[Query], victim: Victim) -> list[list[str]]:
        """Each query's caption with the best words found behind it."""
        half = tuning_half(victim)
        vocabulary, ids = one_token_words(victim.encoder, half.scenes.captions_safe)
        suffixes = [[vocabulary[0]] * self._words for _ in queries]
        gallery = victim.reported.images
        table = victim.encoder.model.token_embedding.weight[ids].detach()
        scores = margin(embed_texts(victim.encoder, _texts(queries, suffixes)), gallery)
        for step in range(self._steps):
            place = step % self._words
            gradient = self._gradient(victim.encoder, _texts(queries, suffixes), gallery, place)
            ranked = (gradient @ table.T).topk(min(self._candidates, len(vocabulary)), dim=1).indices
            for column in range(ranked.shape[1]):
                tried = [
                    [*suffix[:place], vocabulary[int(ranked[row, column])], *suffix[place + 1 :]]
                    for row, suffix in enumerate(suffixes)
                ]
                reached = margin(embed_texts(victim.encoder, _texts(queries, tried)), gallery)
                for row in (reached > scores).nonzero()[:, 0].tolist():
                    suffixes[row], scores[row] = tried[row], reached[row]
        return [[text] for text in _texts(queries, suffixes)]

    def _gradient(self, encoder: Encoder, texts: list[str], gallery: MixedGallery, place: int) -> Tensor:
        """[Q, W]: of the margin, at the embedding of the appended word `place`."""
        tokens = encoder.tokenize(texts)
        kept: list[Tensor] = []

        def detach(module: torch.nn.Module, inputs: object, output: Tensor) -> Tensor:
            kept.append(output.detach().requires_grad_(True))
            return kept[0]

        handle = encoder.model.token_embedding.register_forward_hook(detach)
        try:
            reached = margin(encoder.model.encode_text(tokens, normalize=True), gallery).sum()
        finally:
            handle.remove()
        (gradient,) = torch.autograd.grad(reached, kept)
        ends = (tokens == tokens.max()).int().argmax(dim=1)  # the end token has the highest number
        rows = torch.arange(len(texts))
        return gradient[rows, (ends - self._words + place).clamp(min=1)]


def one_token_words(encoder: Encoder, captions: Sequence[str]) -> tuple[list[str], Tensor]:
    """The distinct words of some captions that are one token, with the tokens' numbers."""
    words = sorted({word for caption in captions for word in caption.split() if word.isalpha()})
    tokens = [encoder.tokenize([word])[0] for word in words]
    single = [(word, int(row[1])) for word, row in zip(words, tokens, strict=True) if len(row) == 3]
    if not single:  # a tokenizer that pads: whatever stands behind the start token
        single = [(word, int(row[1])) for word, row in zip(words, tokens, strict=True)]
    return [word for word, _ in single], torch.tensor([number for _, number in single])


def _texts(queries: Sequence[Query], suffixes: Sequence[Sequence[str]]) -> list[str]:
    return [f"{query.caption} {' '.join(suffix)}" for query, suffix in zip(queries, suffixes, strict=True)]
