"""The embedded world: captions from a grammar, images composed of OpenMoji glyphs, and their ground truth."""
