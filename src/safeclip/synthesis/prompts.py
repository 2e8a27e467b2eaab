"""What the rewriter is asked: the same few words when it is tuned and when it is used.

Short on purpose: every token of it is paid for once a row. A system message of our own keeps the chat
template from adding its default one, which is three times as long.
"""

from __future__ import annotations

SYSTEM = "Rewrite the caption with the concept."


def prompt_messages(caption: str, concept: str) -> list[dict[str, str]]:
    """The chat that asks for an unsafe version of `caption` that shows `concept`."""
    return [
        {"role": "system", "content": SYSTEM},
        {"role": "user", "content": f"{concept}: {caption}"},
    ]
