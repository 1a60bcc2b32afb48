"""The link on the BSDs and macOS."""
