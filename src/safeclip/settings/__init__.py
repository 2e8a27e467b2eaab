"""params.yaml as typed, frozen models: one file a section, one section a stage, named after it.

A stage imports its own section alone, so that a change to another section's code does not make it stale.
"""
