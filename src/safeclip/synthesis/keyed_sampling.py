"""Top-p sampling whose noise is a function of (row key, position, token): no generator, no state.

argmax(logits / T + Gumbel noise) is a draw from softmax(logits / T) (the Gumbel-max trick), and a row draws
the same noise whatever batch it stands in. Only the best candidates of a position are looked at, so nothing
sorts the vocabulary. Needs torch and numpy alone: a vLLM server of ours samples with it too.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from safeclip.synthesis.keyed import gumbel

_CANDIDATES = 128  # tokens looked at a position; in a tuned rewriter they hold nearly all of the probability


def keyed_draw(
    scores: torch.Tensor,
    keys: NDArray[np.uint64],
    position: int | NDArray[np.uint64],
    temperature: float,
    top_p: float,
) -> torch.Tensor:
    """Logits [B, V], row keys [B] and the rows' position(s) in their answers -> drawn token ids [B, 1]."""
    logits = scores.float() / temperature
    best, tokens = logits.topk(min(_CANDIDATES, logits.shape[-1]), dim=-1)
    before = (best - logits.logsumexp(-1, keepdim=True)).exp().cumsum(-1).roll(1, dims=-1)
    before[:, 0] = 0.0  # probability of the tokens ranked above: the first is always kept
    noise = torch.from_numpy(gumbel(keys, position, tokens.cpu().numpy())).to(best)
    drawn = (best + noise).masked_fill(before >= top_p, -torch.inf).argmax(-1, keepdim=True)
    return tokens.gather(-1, drawn)


def only(tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Scores [B, V] that leave greedy decoding no choice but `tokens` [B, 1]."""
    return torch.full_like(scores, -torch.inf).scatter(-1, tokens, 0.0)
