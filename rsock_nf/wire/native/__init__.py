"""The native wire: authenticated frames and a Noise handshake.  ``docs/wire.md`` specifies it."""
