"""The section `fit_probes` of params.yaml."""

from __future__ import annotations

from safeclip.settings.section import Positive, Section


class FitProbes(Section):
    """How the service will tell unsafe inputs."""

    batch_size: Positive = 256
