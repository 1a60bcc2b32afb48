"""The wire of the original rsock."""
