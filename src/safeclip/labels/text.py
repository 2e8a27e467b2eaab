"""Text labellers: n-grams, a transformers classifier, a language model that is asked yes or no."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from safeclip.core.artifacts import DataFolder
from safeclip.core.device import default_device, resolve_dtype
from safeclip.core.errors import ModelError
from safeclip.core.parts import make_part
from safeclip.labels.calibration import Calibration
from safeclip.labels.ensemble import TextLabeller
from safeclip.settings import Llm, Ngrams, TextClassifier, TextLabelling
from safeclip.synthesis.chat import ChatEndpoint, ChatReply, ChatRequest, Sampling
from safeclip.synthesis.language_model import load_model, load_tokenizer, model_folder
from safeclip.synthesis.pairs import CuratedPair
from safeclip.synthesis.vllm_server import open_endpoint


def make_text_labeller(
    cfg: TextLabelling,
    data: DataFolder,
    calibration: Calibration[str],
    *,
    fit_ngrams: Callable[[], TextLabeller],
    servers: ExitStack,
    threads: int,
) -> tuple[TextLabeller, np.ndarray]:
    """Make the text labeller of one entry of `label_safety.text`.

    `fit_ngrams` fits the n-gram model, which alone needs the run's training captions. A server that a
    language model needs is started with `threads` (without a GPU) and stops when `servers` closes.

    Returns:
        The labeller and its scores of the calibration captions, float32 [N].
    """
    labeller: TextLabeller
    if isinstance(cfg, Ngrams):
        labeller = fit_ngrams()
    elif isinstance(cfg, TextClassifier):
        labeller = ClassifierTextLabeller(cfg.model, cfg.unsafe, cfg.batch_size)
    elif isinstance(cfg, Llm):
        model = servers.enter_context(open_yes_no_model(cfg, threads=threads))
        labeller = LlmTextLabeller(model, cfg.max_dropped_share)
    else:
        labeller = make_part(cfg.labeller, data, **cfg.options)
    return labeller, labeller.score(calibration.items)


def score_by_length(
    captions: Sequence[str], batch_size: int, score: Callable[[list[str]], np.ndarray]
) -> np.ndarray:
    """Score captions in batches of similar length, since a batch is padded to its longest caption.

    `score` maps a batch to its scores. Returns float32 [N] in the order of the captions.
    """
    scores = np.zeros(len(captions), np.float32)
    order = sorted(range(len(captions)), key=lambda row: (len(captions[row]), row))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        scores[rows] = score([captions[row] for row in rows])
    return scores


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
    """Logistic regression over the words of a caption and their character n-grams.

    Fitted where it is used, in seconds, from data under version control: the curated pairs, and safe captions
    with and without a taxonomy phrase, or a part of one, put in. Nothing is pickled.
    """

    def __init__(
        self,
        pairs: Sequence[CuratedPair],
        phrases: Sequence[str],
        safe_captions: Sequence[str],
        *,
        seed: int,
    ) -> None:
        all_phrases = [*phrases, *phrase_variants(phrases)]
        unsafe = [*(pair.caption_unsafe for pair in pairs), *all_phrases]
        unsafe += insert_phrases(safe_captions, all_phrases, INSERTED * len(all_phrases), seed)
        safe = [*(pair.caption_safe for pair in pairs), *safe_captions]
        grams = make_union(
            CountVectorizer(binary=True),
            CountVectorizer(binary=True, analyzer="char_wb", ngram_range=(3, 5)),
        )
        self._model = make_pipeline(grams, LogisticRegression(class_weight="balanced", max_iter=5000))
        self._model.fit(unsafe + safe, [1] * len(unsafe) + [0] * len(safe))

    def score(self, items: Sequence[str]) -> np.ndarray:
        """Return the probability of unsafe, float32 [N]."""
        if not len(items):
            return np.zeros(0, np.float32)
        return self._model.predict_proba(list(items))[:, 1].astype(np.float32)


def phrase_variants(phrases: Sequence[str]) -> list[str]:
    """Return phrases without place and time, and their head nouns alone; new ones, deduplicated, sorted.

    A rewriter keeps "bandits" of "a raid by bandits" and "a vampire" of "a vampire with blood".
    """
    parts = {
        _ARTICLE.sub("", _PLACES.sub("", piece)).strip()
        for phrase in phrases
        for piece in _CARRIES.split(phrase)
    }
    parts |= {part.split()[-1] for part in parts if part}
    return sorted(part for part in parts - set(phrases) if part and not set(part.split()) <= _HARMLESS)


def insert_phrases(captions: Sequence[str], phrases: Sequence[str], count: int, seed: int) -> list[str]:
    """Return `count` captions with a phrase in them.

    Half of the phrases replace one to three words, half come behind the caption. Phrases take turns, so that
    every phrase is used about equally often; captions are drawn at random.
    """
    rng = np.random.default_rng(seed)
    texts = []
    for turn in range(count):
        words = captions[int(rng.integers(len(captions)))].split()
        phrase = phrases[turn % len(phrases)]
        if rng.random() < 0.5:
            texts.append(" ".join([*words, JOINS[rng.integers(len(JOINS))], phrase]))
        else:
            start = int(rng.integers(len(words)))
            end = start + int(rng.integers(1, 4))
            texts.append(" ".join([*words[:start], phrase, *words[end:]]))
    return texts


class ClassifierTextLabeller:
    """A transformers sequence classifier: the probability of its unsafe classes.

    That is their sum under softmax, or the highest one of a multi-label model.
    """

    def __init__(self, model: str, unsafe: Sequence[str], batch_size: int) -> None:
        """Load the classifier by name or folder; `unsafe` names its classes that count, whatever their case.

        Raises:
            ModelError: it does not load, has untrained weights, or lacks a class.
        """
        self._tokenizer, self._model = _load_classifier(model)
        names = self._model.config.id2label
        rows = {name.casefold(): row for row, name in names.items()}
        unknown = [name for name in unsafe if name.casefold() not in rows]
        if unknown or not unsafe:
            fault = f"no class {unknown[0]!r}" if unknown else "no class named as unsafe"
            raise ModelError(
                f"{model}: {fault}; its classes are {', '.join(names.values())}: name the unsafe ones in "
                "`unsafe`"
            )
        self._unsafe = sorted(rows[name.casefold()] for name in unsafe)
        self._multi_label = self._model.config.problem_type == "multi_label_classification"
        self._batch_size = batch_size

    @torch.no_grad()
    def score(self, items: Sequence[str]) -> np.ndarray:
        """Return the probability of unsafe, float32 [N]."""
        return score_by_length(items, self._batch_size, self._score_batch)

    def _score_batch(self, captions: list[str]) -> np.ndarray:
        batch = self._tokenizer(captions, return_tensors="pt", padding=True, truncation=True)
        # shape: [B, classes]
        logits = self._model(**batch).logits.float()
        if self._multi_label:
            return logits.sigmoid()[:, self._unsafe].amax(-1).numpy()
        return logits.softmax(-1)[:, self._unsafe].sum(-1).clamp(0.0, 1.0).numpy()


def _load_classifier(model: str) -> tuple[Any, Any]:
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


SYSTEM = "You check captions of pictures. Answer with one word, yes or no."
QUESTION = (
    "Does this caption show violence, weapons, crime, drugs, self-harm, hate, harassment, sexual content or "
    "something shocking?"
)
# twenty is the most alternatives that chat APIs return
FIRST_WORD = Sampling(max_tokens=1, temperature=0.0, top_p=1.0, stop=(), top_logprobs=20)
CAPTIONS_PER_REQUEST = 512
"""Captions handed to a server together, between two updates of the progress bar."""


class YesNoModel(Protocol):
    """A chat model asked about captions: P(yes) / (P(yes) + P(no)) of its first word (arXiv 2306.05685).

    float32 [N]; NaN where the model gave no answer, which a model in this process never does.
    """

    def probability_of_yes(self, captions: Sequence[str]) -> np.ndarray: ...


class LlmTextLabeller:
    """A language model that is asked whether a caption is unsafe: its probability of yes."""

    def __init__(self, model: YesNoModel, max_dropped_share: float) -> None:
        self._model, self._max_dropped_share = model, max_dropped_share

    def score(self, items: Sequence[str]) -> np.ndarray:
        """Return the probability of yes, float32 [N]; a caption without an answer counts as unsafe, 1.

        Raises:
            ModelError: more than `max_dropped_share` of the captions got no answer.
        """
        scores = self._model.probability_of_yes(items)
        unanswered = np.isnan(scores)
        if unanswered.sum() > self._max_dropped_share * len(items):
            raise ModelError(
                f"label_safety: the language model gave no answer to {unanswered.sum()} of {len(items)} "
                f"captions, more than its `max_dropped_share` = {self._max_dropped_share}; choose another "
                "model or raise it"
            )
        if unanswered.any():
            print(f"label_safety: {unanswered.sum()} captions without an answer count as unsafe", flush=True)
        return np.where(unanswered, np.float32(1.0), scores)


def conversation(caption: str) -> list[dict[str, str]]:
    """Return the chat that asks about a caption."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{QUESTION}\nCaption: {caption}"},
    ]


@contextmanager
def open_yes_no_model(cfg: Llm, *, threads: int) -> Iterator[YesNoModel]:
    """Open the language model of these settings, in this process or behind a chat API.

    A server that is started has `threads` without a GPU and ends with the block.

    Raises:
        ModelError: the model does not load, or a server does not start, is not there or does not serve it.
    """
    # the model in this process computes on the CPU
    dtype = resolve_dtype(cfg.dtype, "cpu" if cfg.engine == "transformers" else default_device())
    if dtype != cfg.dtype:
        print(f"label_safety: dtype auto of {cfg.model} is {dtype}", flush=True)
    if cfg.engine == "transformers":
        yield TransformersYesNo(cfg.model, dtype, cfg.batch_size)
        return

    def arguments() -> list[str]:
        return ["--model", model_folder(cfg.model), "--served-model-name", cfg.vllm.model]

    section = "label_safety.text.vllm"
    with open_endpoint(cfg.vllm, arguments, dtype=dtype, threads=threads, section=section) as endpoint:
        yield ServedYesNo(endpoint)


class TransformersYesNo:
    """A language model in this process, asked in batches of captions of similar length."""

    def __init__(self, model: str, dtype: str, batch_size: int) -> None:
        folder = model_folder(model)
        self._tokenizer: Any = load_tokenizer(folder)
        self._model: Any = load_model(folder, getattr(torch, dtype))
        self._yes, self._no = self._first_tokens("Yes", "yes"), self._first_tokens("No", "no")
        if set(self._yes) & set(self._no):
            raise ModelError(f"{model}: yes and no begin with the same token; choose another model")
        self._batch_size = batch_size

    @torch.inference_mode()
    def probability_of_yes(self, captions: Sequence[str]) -> np.ndarray:
        """Return P(yes) / (P(yes) + P(no)) of the next token, float32 [N]; no text is generated."""
        return score_by_length(captions, self._batch_size, self._score_batch)

    def _score_batch(self, captions: Sequence[str]) -> np.ndarray:
        chats = [
            self._tokenizer.apply_chat_template(
                conversation(caption), tokenize=False, add_generation_prompt=True
            )
            for caption in captions
        ]
        batch = self._tokenizer(chats, return_tensors="pt", padding=True, add_special_tokens=False)
        # shape: [B, vocabulary], of the token after the prompt
        logits = self._model(**batch.to(self._model.device), logits_to_keep=1).logits[:, -1].float()
        odds = logits[:, self._yes].logsumexp(-1) - logits[:, self._no].logsumexp(-1)
        return odds.sigmoid().cpu().numpy()

    def _first_tokens(self, *words: str) -> list[int]:
        return sorted({self._tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words})


class ServedYesNo:
    """A chat endpoint that returns the log-probabilities of the first word of its answer."""

    def __init__(self, endpoint: ChatEndpoint) -> None:
        self._endpoint = endpoint

    def probability_of_yes(self, captions: Sequence[str]) -> np.ndarray:
        """Return P(yes) / (P(yes) + P(no)), float32 [N], NaN where a request failed.

        Raises:
            ModelError: the server is dead, hangs, or returns no log-probabilities.
        """
        requests = [
            ChatRequest(f"{row}", tuple(conversation(caption)), seed=0)
            for row, caption in enumerate(captions)
        ]
        replies: list[ChatReply] = []
        starts = range(0, len(requests), CAPTIONS_PER_REQUEST)
        for start in tqdm(starts, desc="language model labels", mininterval=10, disable=None):
            replies += self._endpoint.ask(requests[start : start + CAPTIONS_PER_REQUEST], FIRST_WORD)
        return np.array([_yes_share(reply) for reply in replies], np.float32)


def _yes_share(reply: ChatReply) -> float:
    """Return yes / (yes + no) of a reply; a word that was not returned is as likely as the least that was."""
    if reply.fault:
        return math.nan
    least = math.exp(min(logprob for _, logprob in reply.top_logprobs))
    # whatever its case and the blank before it
    mass = {
        word: sum(math.exp(p) for token, p in reply.top_logprobs if token.strip().lower() == word)
        for word in ("yes", "no")
    }
    yes, no = mass["yes"] or least, mass["no"] or least
    return yes / (yes + no)
