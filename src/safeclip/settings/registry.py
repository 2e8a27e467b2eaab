"""The section `registry` of params.yaml: where releases go and who may approve them. No stage reads it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from safeclip.settings.section import Positive, Section


class Registry(Section):
    """Review and promotion."""

    url: Annotated[str, Field(min_length=1)] = (
        "registry"  # a folder, or any fsspec URL (s3://bucket/safeclip)
    )
    git_remote: str | None = None  # tags and candidate branches are pushed there, all or none
    starter_may_approve: bool = True  # may whoever started a run approve its candidate?
    expires_hours: Positive = 168  # a request that nobody answered
    webhook: str | None = None  # told of: stage failed, gate failed, approval wanted, promoted
