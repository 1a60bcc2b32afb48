"""The protocol without I/O: no socket, clock, randomness, logger or await.  Standard library only."""
