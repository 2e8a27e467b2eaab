"""Subcommands of `safeclip`, one module a topic. What is heavy is imported when a command runs."""
