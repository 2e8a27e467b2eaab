"""safeclip: retrain, check and ship a CLIP whose unsafe inputs land on their safe counterparts."""

__version__ = "0.1.0"
