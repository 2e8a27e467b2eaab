"""The section `report` of params.yaml."""

from __future__ import annotations

from safeclip.settings.section import Section


class Report(Section):
    title: str = "safeclip candidate"
