"""What the bytes look like: the native frames and the Noise handshake behind the protocols of ``core``."""
