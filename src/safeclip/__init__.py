"""safeclip: retrain, check and ship a CLIP whose unsafe inputs land on their safe counterparts."""

from safeclip.core.telemetry import switch_off

__version__ = "0.1.0"

switch_off()
