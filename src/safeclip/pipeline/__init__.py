"""The chain of dvc.yaml: its graph, what is stale in it and why, and how one stage is run."""
