"""The section `validate_data` of params.yaml."""

from __future__ import annotations

from safeclip.settings.section import Count, Positive, Section, Share, Weight


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
    sample_rows: Count = 8  # rows shown on the page, unsafe pictures blurred
