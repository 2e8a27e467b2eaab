"""The picture on which a served image tower must give the packaged vector."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image


def reference_picture() -> str:
    """Base64 of a PNG with two colour ramps and an edge."""
    ramp = np.indices((48, 64)).transpose(1, 2, 0) * 4
    edge = np.where(ramp[..., :1] > ramp[..., 1:], 220, 30)
    buffer = io.BytesIO()
    Image.fromarray(np.concatenate([ramp, edge], axis=2).astype(np.uint8)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
