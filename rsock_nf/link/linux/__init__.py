"""The link on Linux."""
