"""The reviewer's page: one HTML file that loads nothing, from which a candidate is approved or rejected."""
