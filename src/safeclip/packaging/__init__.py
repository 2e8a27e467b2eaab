"""The Bento: merged weights, probes, service, model card."""
