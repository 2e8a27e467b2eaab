"""The section `validate_data` of params.yaml."""

from __future__ import annotations

from typing import Literal

from safeclip.settings.section import Count, Positive, Section, Share, Weight


class Check(Section):
    """A bound, and what happens beyond it: `warn` says so on the page, `stop` stops the chain."""

    bound: Weight
    on_fail: Literal["warn", "stop"] = "warn"


class Checks(Section):
    """Signs of a poor data set, beside the contract. `min_`: at least the bound; `max_`: at most."""

    min_labeller_kappa: Check = Check(bound=0.4)  # Cohen's kappa of any two labellers of a modality
    min_text_image_same: Check = Check(bound=0.6)  # rows whose caption and picture have the same label
    min_category_evenness: Check = Check(bound=0.7)  # entropy of the categories' shares; 1: all alike
    min_distinct_2: Check = Check(bound=0.2)  # different word pairs of all, of 1,000 generated captions
    min_vendi_share: Check = Check(bound=0.1, on_fail="stop")  # effectively different captions, of 500
    max_repeated_captions: Check = Check(bound=0.05)  # generated, the words of an earlier one of its split
    max_repeated_pictures: Check = Check(bound=0.05)  # generated, near an earlier one of its split
    max_leaked_captions: Check = Check(bound=0.05)  # generated, the words of one in another split
    max_leaked_pictures: Check = Check(bound=0.05)  # generated, near one in another split
    max_text_label_errors: Check = Check(bound=0.1)  # labels that confident learning doubts
    max_drift: Check = Check(bound=0.15)  # total variation from the accepted data set, of any distribution


class ValidateData(Section):
    """Bounds of the data contract's expectations; a broken one stops the chain."""

    min_rows: Positive = 1000
    max_quarantined: Share = 0.1  # of the rows that reach validation
    min_unsafe_text: Share = 0.5  # in each split
    min_unsafe_image: Share = 0.4  # in each split
    max_state_share: Share = 0.95  # of one label state: more means a labeller that says one thing
    max_caption_words: Positive = 40
    min_image_side: Positive = 32
    min_similarity: Share = 0.2  # words shared in order by safe and generated caption, 2M/T
    min_category_share: Share = 0.01
    near_duplicate_levels: Weight = 3.0  # root-mean-square difference of 16 x 16 thumbnails, of 255
    near_hash_bits: Count = 4  # of the 64 of a perceptual hash, in which near pictures may differ
    checks: Checks = Checks()
    sample_rows: Count = 8  # rows shown on the page, unsafe pictures blurred
