"""Random draws keyed by (project seed, row id, purpose), never taken from a shared stream.

A row's draws are the same whatever other rows there are, in what order they come and in which process. Needs
numpy and torch alone, since a vLLM server that we start samples with it too.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def row_key(seed: int, row_id: str, purpose: str) -> int:
    """Return 63 bits that stand for this row and purpose; they fit an int64 column."""
    text = f"{seed}\x1f{purpose}\x1f{row_id}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def row_generator(seed: int, row_id: str, purpose: str) -> np.random.Generator:
    """Return a numpy generator for this row and purpose."""
    return np.random.Generator(np.random.PCG64(row_key(seed, row_id, purpose)))


def gumbel(
    keys: NDArray[np.uint64], position: int | NDArray[np.uint64], tokens: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Return standard Gumbel noise [B, K] for row keys [B] and token ids [B, K]; one position, or one a row.

    Counter-based: a hash (splitmix64's finaliser, twice) of key, position and token, read as a uniform.
    """
    with np.errstate(over="ignore"):
        at = (np.asarray(position, dtype=np.uint64) + np.uint64(1)) * _GOLDEN
        counters = _mix(keys + at)[:, None] + tokens.astype(np.uint64)
        bits = _mix(counters * _GOLDEN)
    uniform = ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53
    return (-np.log(-np.log(uniform))).astype(np.float32)


def _mix(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser: every input bit reaches every output bit."""
    value = (value ^ (value >> np.uint64(30))) * _MIX_1
    value = (value ^ (value >> np.uint64(27))) * _MIX_2
    return value ^ (value >> np.uint64(31))


# tokens looked at a position; in a tuned rewriter they hold nearly all of the probability
_TOP_TOKENS = 128


def keyed_draw(
    scores: torch.Tensor,
    keys: NDArray[np.uint64],
    position: int | NDArray[np.uint64],
    temperature: float,
    top_p: float,
) -> torch.Tensor:
    """Draw one token for each row by top-p sampling whose noise is a function of (row key, position, token).

    argmax(logits / T + Gumbel noise) is a draw from softmax(logits / T) (the Gumbel-max trick), and a row
    draws the same noise whatever batch it is in. Only the best tokens of a position are looked at, so nothing
    sorts the vocabulary.

    Args:
        scores: logits [B, V].
        keys: of the rows, [B].
        position: of the token in its answer, one for all or [B].
        temperature, top_p: as usual; one for all or [B, 1].

    Returns:
        Token ids [B, 1].
    """
    logits = scores.float() / temperature
    # shape: [B, K], sorted
    best, tokens = logits.topk(min(_TOP_TOKENS, logits.shape[-1]), dim=-1)
    before = (best - logits.logsumexp(-1, keepdim=True)).exp().cumsum(-1).roll(1, dims=-1)
    before[:, 0] = 0.0  # probability of the tokens ranked above: the first is always kept
    noise = torch.from_numpy(gumbel(keys, position, tokens.cpu().numpy())).to(best)
    drawn = (best + noise).masked_fill(before >= top_p, -torch.inf).argmax(-1, keepdim=True)
    return tokens.gather(-1, drawn)


def only(tokens: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Return scores [B, V] that leave greedy decoding no choice but `tokens` [B, 1]."""
    return torch.full_like(scores, -torch.inf).scatter(-1, tokens, 0.0)
