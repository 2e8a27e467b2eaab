"""The model card that travels in the Bento, under the headings model cards have."""

from __future__ import annotations

from typing import Any


def model_card(verdict: dict[str, Any], lineage: dict[str, Any]) -> str:
    """Markdown from the verdict and the digests; it holds no example of unsafe content."""
    rules = "\n".join(_rule(rule) for rule in verdict["rules"])
    digests = "\n".join(f"- {name}: `{value}`" for name, value in sorted(lineage.items()))
    return f"""# safeclip-embedder

A CLIP-like encoder fine-tuned so that unsafe captions and pictures land on their safe counterparts while
benign ones stay where the base encoder put them.

## Intended use

Retrieval and ranking where unsafe results must not surface: embed texts and images, compare by dot product.
Vectors of different versions, or of the base encoder, do not mix.

## Limits

- An encoder that hides unsafe content cannot score it; the Bento carries the base towers
  for that, and scores by both.
- Fine-tuning lowers the rate of unsafe results, it does not end it: the measured rates are below. Keep the
  filters you have.
- The weights are trained on the data named under lineage; other domains need their own evaluation.
- Robustness to adversarial queries was not part of these rules.

## Evaluation

Test split never seen in training; intervals are paired bootstraps over scenes.

| rule | metric | against | n | estimate | interval | bound | passed |
|---|---|---|---|---|---|---|---|
{rules}

## Lineage

{digests}

## Ethics

The unsafe data exists to be unlearned. None of it is in this Bento. Pictures of the embedded data set are
composed from OpenMoji glyphs (CC BY-SA 4.0).
"""


def _rule(rule: dict[str, Any]) -> str:
    def number(key: str) -> str:
        return "not measured" if rule[key] is None else f"{rule[key]:.4f}"

    interval = f"{number('low')} to {number('high')}"
    cells = (rule["id"], rule["metric"], rule["against"], rule["n"], number("estimate"), interval)
    return (
        "| " + " | ".join(map(str, cells)) + f" | {number('bound')} | {'yes' if rule['passed'] else 'NO'} |"
    )
