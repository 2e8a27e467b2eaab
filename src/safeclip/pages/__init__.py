"""Self-contained HTML without script or network: one house style, inline charts, blurred pictures."""
