"""The inbound traffic that we own, and that the kernel must not see."""
