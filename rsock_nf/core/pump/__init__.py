"""The fast path: datagrams to bursts and back."""
