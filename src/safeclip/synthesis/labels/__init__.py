"""Safe/unsafe labels for generated captions and pictures, one a modality; the picture alone decides its own.

A labeller gives each item a score in [0, 1], higher for unsafe. Its threshold is chosen on a small set
labelled by hand so that a stated share of the unsafe items is found. Several make an ensemble: unsafe if any
says so.
"""
