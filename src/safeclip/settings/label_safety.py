"""The section `label_safety` of params.yaml."""

from __future__ import annotations

from safeclip.settings.section import Section, Share


class LabelSafety(Section):
    """Independent safe/unsafe labels, one a modality."""

    text_threshold: Share = 0.5
    image_threshold: Share = 0.5
