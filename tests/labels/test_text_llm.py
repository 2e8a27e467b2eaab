"""A language model as labeller: in process, behind a real HTTP server and in a real vLLM server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from safeclip.core.errors import ModelError
from safeclip.core.guard import load_guard
from safeclip.core.taxonomy import load_taxonomy
from safeclip.labels.calibration import calibration_captions
from safeclip.labels.text import LlmTextLabeller, TransformersYesNo, conversation, open_yes_no_model
from safeclip.settings import Llm, LlmVllm
from tests.labels.material import DATA
from tests.labels.tiny_words import CAPTIONS, WORDS, tokenizer_in
from tests.synthesis.chat_server import Handler, Play, chat_server


@pytest.fixture(scope="module")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llm")
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), **sizes)).save_pretrained(folder)
    tokenizer_in(folder)
    return folder


def test_the_score_is_its_odds_of_yes_whatever_the_batch(chat_model: Path) -> None:
    alone = TransformersYesNo(str(chat_model), "float32", batch_size=1).probability_of_yes(CAPTIONS)
    together = TransformersYesNo(str(chat_model), "float32", batch_size=4).probability_of_yes(CAPTIONS)
    assert alone.dtype == np.float32
    assert ((alone > 0) & (alone < 1)).all()
    assert len(set(alone.tolist())) > 1
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_a_model_that_cannot_tell_yes_from_no_is_refused(chat_model: Path, tmp_path: Path) -> None:
    for file in chat_model.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    for word in ("Yes", "yes", "No", "no"):
        del tokenizer["model"]["vocab"][word]
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(ModelError, match="choose another model"):
        TransformersYesNo(str(tmp_path), "float32", batch_size=4)


def serving(folder: Path) -> Play:
    """A server that runs the model in `folder` and tells the probabilities of its first word."""
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    ours = TransformersYesNo(str(folder), "float32", batch_size=1)

    def play(handler: Handler, body: dict[str, Any], asked: int) -> None:
        text = ours._tokenizer.apply_chat_template(body["messages"], tokenize=False)
        ids = ours._tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            told = model(ids).logits[0, -1].log_softmax(-1).topk(min(body["top_logprobs"], len(WORDS)))
        words = {WORDS[at]: value for at, value in zip(told.indices, told.values.tolist(), strict=True)}
        handler.say(max(words, key=lambda word: words[word]), finish="length", tokens=1, top_logprobs=words)

    return play


def at(url: str, **changes: Any) -> Llm:
    """A labeller behind the server at `url`."""
    own = LlmVllm(url=url, model="rewriter", max_attempts=2, request_timeout_s=5.0)
    return Llm(kind="llm", recall=0.97, engine="vllm", vllm=own, **changes)


def test_a_served_model_says_what_the_same_model_says_in_process(chat_model: Path) -> None:
    with chat_server(serving(chat_model)) as server, open_yes_no_model(at(server.url), threads=1) as model:
        served = LlmTextLabeller(model, max_dropped_share=0.0).score(CAPTIONS)
    in_process = TransformersYesNo(str(chat_model), "float32", batch_size=4).probability_of_yes(CAPTIONS)
    np.testing.assert_allclose(served, in_process, atol=1e-5)
    assert {(body["max_tokens"], body["temperature"], body["top_logprobs"]) for body in server.bodies} == {
        (1, 0.0, 20)
    }
    assert [body["messages"] for body in server.bodies if body["messages"] == conversation(CAPTIONS[0])]


def test_a_word_that_is_not_told_is_as_likely_as_the_least_that_is() -> None:
    told = {"Yes": np.log(0.6), " yes": np.log(0.2), "Maybe": np.log(0.1)}
    with (
        chat_server(lambda h, b, n: h.say("Yes", top_logprobs=told)) as server,
        open_yes_no_model(at(server.url), threads=1) as model,
    ):
        (score,) = model.probability_of_yes(["a man with a gun"])
    assert score == pytest.approx(0.8 / 0.9)


def refusing(caption: str) -> Play:
    """A server that finds one caption too bad to speak about."""

    def play(handler: Handler, body: dict[str, Any], asked: int) -> None:
        if body["messages"][-1]["content"].endswith(f": {caption}"):
            handler.say(None, finish="content_filter")
        else:
            handler.say("No", top_logprobs={"No": -0.1, "Yes": -3.0})

    return play


def test_a_caption_that_the_server_refuses_counts_as_unsafe_up_to_a_share(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with chat_server(refusing("gun")) as server, open_yes_no_model(at(server.url), threads=1) as model:
        scores = LlmTextLabeller(model, max_dropped_share=0.25).score(CAPTIONS)
        with pytest.raises(
            ModelError, match=r"no answer to 1 of 4 captions.*`max_dropped_share` = 0.2; choose"
        ):
            LlmTextLabeller(model, max_dropped_share=0.2).score(CAPTIONS)
    assert scores[2] == 1.0
    assert (scores[[0, 1, 3]] < 0.5).all()
    assert "1 captions without an answer count as unsafe" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("play", "line"),
    [
        (lambda h, b, n: h.say("No"), "no probabilities of its first word"),
        (lambda h, b, n: h.send(b"{}", 503), r"busy or failing \(503\)"),
        (lambda h, b, n: h.send(b"{}", 404), r"correct `label_safety.text.vllm.url`"),
    ],
)
def test_a_server_that_cannot_answer_stops_the_stage_with_one_line(play: Play, line: str) -> None:
    with (
        chat_server(play) as server,
        open_yes_no_model(at(server.url), threads=1) as model,
        pytest.raises(ModelError, match=line) as error,
    ):
        model.probability_of_yes(CAPTIONS)
    assert "\n" not in str(error.value)


def test_a_server_without_the_model_names_the_setting() -> None:
    with chat_server() as server:
        own = Llm(kind="llm", recall=0.97, engine="vllm", vllm=LlmVllm(url=server.url))
        with pytest.raises(ModelError, match=r"not 'labeller'; correct `label_safety.text.vllm.model`"):
            open_yes_no_model(own, threads=1).__enter__()


@pytest.mark.servers
@pytest.mark.timeout(900)
def test_vllm_labels_as_the_engine_in_process_does(
    vllm_environment: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The captions labelled by hand through a real vLLM server and in process: the same scores."""
    taxonomy = load_taxonomy(DATA / "taxonomy.yaml")
    known = calibration_captions(DATA / "calibration", load_guard(), taxonomy.categories)
    monkeypatch.chdir(DATA.parent)
    vllm = LlmVllm(environment=str(vllm_environment))
    own = Llm(kind="llm", recall=0.97, engine="vllm", vllm=vllm, dtype="float32")
    with open_yes_no_model(own, threads=2) as model:
        served = model.probability_of_yes(known.items)
    in_process = TransformersYesNo(own.model, own.dtype, own.batch_size).probability_of_yes(known.items)
    np.testing.assert_allclose(served, in_process, atol=0.01)
