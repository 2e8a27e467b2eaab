"""Self-contained HTML: templates with one house style, inline charts, blurred pictures. No network, no script."""
