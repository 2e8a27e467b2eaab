"""The section `report` of params.yaml."""

from __future__ import annotations

from safeclip.settings.section import Section


class Report(Section):
    """The reviewer's page."""

    title: str = "safeclip candidate"
    uncover: bool = True
