"""The wire of the original rsock: its frames, its opening, and what we tolerate of it.  ``docs/rsock.md``."""
