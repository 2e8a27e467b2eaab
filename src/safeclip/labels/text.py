"""Text labels from words and character n-grams, fitted where they are used from data under version control.

Logistic regression on the curated pairs and on safe captions with and without a taxonomy phrase, or a part of
one, put in. Seconds to fit, nothing pickled.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from torch import Tensor
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from safeclip.core.errors import ModelError
from safeclip.labels.calibration import Calibration
from safeclip.labels.panel import TextLabeller, score_by_length
from safeclip.settings import Judge, Ngrams, TextClassifier, TextLabelling
from safeclip.synthesis.chat import ChatEndpoint, ChatReply, ChatRequest, Sampling
from safeclip.synthesis.language_model import load_model, load_tokenizer, model_folder
from safeclip.synthesis.pairs import CuratedPair
from safeclip.synthesis.vllm_server import open_endpoint

JOINS = ("with", "and", "next to", "holding")
"""How a phrase is put behind a caption when it does not replace a part of it."""
INSERTED = 12
"""Captions with a phrase put in, for each phrase."""
_CARRIES = re.compile(r"\s(?:with|by|as|called|painted as|and)\s")
_PLACES = re.compile(
    r"\s(?:in|on|at|to|from|for|of|after|behind|through|under|who|left|used|thrown|shouted|sprayed|set)\s.*"
)
_ARTICLE = re.compile(r"^(?:an?|the|too many|heavy|deep|human|open|cruel|lonely)\s")
_HARMLESS = frozenset(
    re.findall(
        r"\w+",
        """
        a attack bag bar bed body bottle camera car cash casino cellar cinema club corner couple crowbar
        crowd dancer deal despair dog door down drink driving drop enemies eyes face field film finger flag
        floor food gesture ground heart hostage hotel house jar laptop lock machine man mark mask model
        money neighbours night note official painted phone photos pick pile plate pool poster prisoner raid
        rally rival scene secret sign someone speech stage strangers street tom turned wall war water window
        woman words work
        """,
    )
)
"""Last words of phrases that are harmless on their own."""


class NgramTextLabeller:
    """Logistic regression over the words of a caption and their character n-grams."""

    def __init__(
        self,
        pairs: Sequence[CuratedPair],
        phrases: Sequence[str],
        safe_captions: Sequence[str],
        *,
        seed: int,
    ) -> None:
        said = [*phrases, *parts_of(phrases)]
        unsafe = [*(pair.caption_unsafe for pair in pairs), *said]
        unsafe += put_in(safe_captions, said, INSERTED * len(said), seed)
        safe = [*(pair.caption_safe for pair in pairs), *safe_captions]
        grams = make_union(
            CountVectorizer(binary=True),
            CountVectorizer(binary=True, analyzer="char_wb", ngram_range=(3, 5)),
        )
        self._model = make_pipeline(grams, LogisticRegression(class_weight="balanced", max_iter=5000))
        self._model.fit(unsafe + safe, [1] * len(unsafe) + [0] * len(safe))

    def score(self, items: Sequence[str]) -> np.ndarray:
        """Probability of unsafe, float32 [N]."""
        if not len(items):
            return np.zeros(0, np.float32)
        return self._model.predict_proba(list(items))[:, 1].astype(np.float32)


def parts_of(phrases: Sequence[str]) -> list[str]:
    """What is left of the phrases without where and when, and their last words; new ones, each once, sorted.

    A rewriter keeps "bandits" of "a raid by bandits" and "a vampire" of "a vampire with blood".
    """
    parts = {
        _ARTICLE.sub("", _PLACES.sub("", piece)).strip()
        for phrase in phrases
        for piece in _CARRIES.split(phrase)
    }
    parts |= {part.split()[-1] for part in parts if part}
    return sorted(part for part in parts - set(phrases) if part and not set(part.split()) <= _HARMLESS)


def put_in(captions: Sequence[str], phrases: Sequence[str], count: int, seed: int) -> list[str]:
    """`count` captions with a phrase in them: half replace one to three words, half come behind the caption.

    Phrases take turns, so that every phrase is used about equally often; captions are drawn at random.
    """
    rng = np.random.default_rng(seed)
    return [
        _put_in(captions[int(rng.integers(len(captions)))].split(), phrases[turn % len(phrases)], rng)
        for turn in range(count)
    ]


def _put_in(words: list[str], phrase: str, rng: np.random.Generator) -> str:
    if rng.random() < 0.5:
        return " ".join([*words, JOINS[rng.integers(len(JOINS))], phrase])
    start = int(rng.integers(len(words)))
    end = start + int(rng.integers(1, 4))
    return " ".join([*words[:start], phrase, *words[end:]])


# Text labels from a transformers sequence classifier, by name or folder.


class ClassifierTextLabeller:
    """Probability of the unsafe classes: their sum under softmax; the highest one of a multi-label model."""

    def __init__(self, model: str, unsafe: Sequence[str], batch_size: int) -> None:
        self._tokenizer, self._model = _load(model)
        self._unsafe = _class_rows(model, self._model.config.id2label, unsafe)
        self._several = self._model.config.problem_type == "multi_label_classification"
        self._batch_size = batch_size

    @torch.no_grad()
    def score(self, items: Sequence[str]) -> np.ndarray:
        """Probability of unsafe, float32 [N]."""
        return score_by_length(items, self._batch_size, self._score)

    def _score(self, captions: list[str]) -> np.ndarray:
        batch = self._tokenizer(captions, return_tensors="pt", padding=True, truncation=True)
        return self._probability(self._model(**batch).logits).numpy()

    def _probability(self, logits: Tensor) -> Tensor:
        if self._several:
            return logits.float().sigmoid()[:, self._unsafe].amax(-1)
        return logits.float().softmax(-1)[:, self._unsafe].sum(-1).clamp(0.0, 1.0)


def _load(model: str) -> tuple[Any, Any]:
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        network, info = AutoModelForSequenceClassification.from_pretrained(
            model, use_safetensors=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        why = str(error).strip().splitlines()[0][:160].rstrip(".")
        raise ModelError(
            f"{model}: no text classifier to load ({why}); check the name or the folder"
        ) from None
    if info["missing_keys"]:  # transformers would go on with random weights
        missing = min(info["missing_keys"])
        raise ModelError(f"{model}: has no weights for {missing}; choose a model with a trained classifier")
    return tokenizer, network.eval()


def _class_rows(model: str, names: dict[int, str], unsafe: Sequence[str]) -> list[int]:
    """The outputs of the unsafe classes; case does not matter."""
    rows = {name.casefold(): row for row, name in names.items()}
    unknown = [name for name in unsafe if name.casefold() not in rows]
    if unknown or not unsafe:
        known = ", ".join(names.values())
        named = f"no class {unknown[0]!r}" if unknown else "no class named as unsafe"
        raise ModelError(f"{model}: {named}; its classes are {known}: name the unsafe ones in `unsafe`")
    return sorted(rows[name.casefold()] for name in unsafe)


# Text labels from a language model that is asked yes or no, on whatever engine runs it.


SYSTEM = "You check captions of pictures. Answer with one word, yes or no."
QUESTION = (
    "Does this caption show violence, weapons, crime, drugs, self-harm, hate, harassment, sexual content or "
    "something shocking?"
)
UNANSWERED = 1.0


class JudgeEngine(Protocol):
    """P(yes) / (P(yes) + P(no)) of a chat model's first word (zero-shot judging, arXiv 2306.05685).

    float32 [N]; NaN where the model gave no answer, which an engine in process never does.
    """

    def says_yes(self, captions: Sequence[str]) -> np.ndarray: ...


class JudgeTextLabeller:
    """Probability of yes; a caption that a server will not speak about counts as unsafe."""

    def __init__(self, engine: JudgeEngine, max_lost: float) -> None:
        self._engine, self._max_lost = engine, max_lost

    def score(self, items: Sequence[str]) -> np.ndarray:
        """Score of each caption, float32 [N]; `ModelError` if more than `max_lost` of them got no answer."""
        scores = self._engine.says_yes(items)
        lost = np.isnan(scores)
        if lost.sum() > self._max_lost * len(items):
            raise ModelError(
                f"label_safety: the judge gave no answer to {lost.sum()} of {len(items)} captions, more than "
                f"its `max_lost` = {self._max_lost}; choose another judge or raise it"
            )
        if lost.any():
            print(f"label_safety: {lost.sum()} captions without an answer count as unsafe", flush=True)
        return np.where(lost, np.float32(UNANSWERED), scores)


def conversation(caption: str) -> list[dict[str, str]]:
    """What the judge is asked about a caption."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{QUESTION}\nCaption: {caption}"},
    ]


# What runs the judge: transformers in this process, or a chat endpoint as `rewrite_captions` uses them.


FIRST_WORD = Sampling(max_tokens=1, temperature=0.0, top_p=1.0, stop=(), likeliest=20)
"""Twenty is the most that chat APIs tell."""
AT_ONCE = 512
"""Captions handed to a server together."""
_SECTION = "label_safety.text.vllm"


@contextmanager
def open_judge(own: Judge, *, threads: int) -> Iterator[JudgeEngine]:
    """The engine of these settings; a server of ours has `threads` without a GPU and ends with the block.

    `ModelError` if the model does not load, or a server does not start, is not there or does not serve it.
    """
    if own.engine == "transformers":
        yield TransformersJudge(own.model, own.dtype, own.batch_size)
        return
    serving = partial(_served, own)
    with open_endpoint(own.vllm, serving, dtype=own.dtype, threads=threads, section=_SECTION) as endpoint:
        yield ServedJudge(endpoint)


def _served(own: Judge) -> list[str]:
    return ["--model", model_folder(own.model), "--served-model-name", own.vllm.model]


class TransformersJudge:
    """The language model in this process, in batches of captions of similar length."""

    def __init__(self, model: str, dtype: str, batch_size: int) -> None:
        folder = model_folder(model)
        self._tokenizer: Any = load_tokenizer(folder)
        self._model: Any = load_model(folder, getattr(torch, dtype))
        self._yes, self._no = self._first_tokens("Yes", "yes"), self._first_tokens("No", "no")
        if set(self._yes) & set(self._no):
            raise ModelError(f"{model}: yes and no begin with the same token; choose another judge")
        self._batch_size = batch_size

    @torch.inference_mode()
    def says_yes(self, captions: Sequence[str]) -> np.ndarray:
        """Probability of yes, float32 [N]; no text is made."""
        return score_by_length(captions, self._batch_size, self._ask)

    def _ask(self, captions: Sequence[str]) -> np.ndarray:
        chats = [
            self._tokenizer.apply_chat_template(
                conversation(caption), tokenize=False, add_generation_prompt=True
            )
            for caption in captions
        ]
        batch = self._tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False)
        logits = self._model(**batch.to(self._model.device), logits_to_keep=1).logits[:, -1].float()
        odds = logits[:, self._yes].logsumexp(-1) - logits[:, self._no].logsumexp(-1)
        return odds.sigmoid().cpu().numpy()

    def _first_tokens(self, *words: str) -> list[int]:
        return sorted({self._tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words})


class ServedJudge:
    """A chat endpoint that tells how likely the first words of its answer were."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self._endpoint = endpoint

    def says_yes(self, captions: Sequence[str]) -> np.ndarray:
        """Probability of yes, float32 [N], NaN where a request failed.

        `ModelError` if the server is dead, hangs, or does not say how likely its words were.
        """
        asked = [
            ChatRequest(f"{row}", tuple(conversation(caption)), seed=0)
            for row, caption in enumerate(captions)
        ]
        replies: list[ChatReply] = []
        for start in tqdm(range(0, len(asked), AT_ONCE), desc="judge", mininterval=10, disable=None):
            replies += self._endpoint.ask(asked[start : start + AT_ONCE], FIRST_WORD)
        return np.array([_yes(reply) for reply in replies], np.float32)


def _yes(reply: ChatReply) -> float:
    """P(yes) / (P(yes) + P(no)) over the words told; one that is not among them is as likely as the least."""
    if reply.fault:
        return math.nan
    least = math.exp(min(logprob for _, logprob in reply.likeliest))
    yes, no = (_mass(reply, word) or least for word in ("yes", "no"))
    return yes / (yes + no)


def _mass(reply: ChatReply, word: str) -> float:
    """Probability of a word, whatever its case and the blank before it."""
    return sum(math.exp(logprob) for token, logprob in reply.likeliest if token.strip().lower() == word)


# The text labeller that settings ask for; each one's code is loaded only where it is used.


def text_labeller(
    own: TextLabelling,
    ngrams: Callable[[], TextLabeller],
    calibration: Calibration[str],
    *,
    servers: ExitStack,
    threads: int,
) -> tuple[TextLabeller, np.ndarray]:
    """The text labeller of these settings and its scores of the calibration captions.

    `ngrams` fits the n-gram model, which alone needs the run's training captions. A server that a judge needs
    is started with `threads` (without a GPU) and stops when `servers` closes.
    """
    labeller = ngrams() if isinstance(own, Ngrams) else _language_labeller(own, servers, threads)
    return labeller, labeller.score(calibration.items)


def _language_labeller(own: TextClassifier | Judge, servers: ExitStack, threads: int) -> TextLabeller:
    if isinstance(own, TextClassifier):
        from safeclip.labels.text import ClassifierTextLabeller

        return ClassifierTextLabeller(own.model, own.unsafe, own.batch_size)
    from safeclip.labels.text import JudgeTextLabeller, open_judge

    return JudgeTextLabeller(servers.enter_context(open_judge(own, threads=threads)), own.max_lost)
