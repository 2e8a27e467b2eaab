"""The section `embed_teacher` of params.yaml."""

from __future__ import annotations

from safeclip.settings.section import Positive, Section


class EmbedTeacher(Section):
    """The frozen base encoder's embeddings."""

    batch_size: Positive = 256
