"""rsock-nf: an application's UDP inside many fake-TCP flows that the kernel never sees."""

__version__ = "0.1.0"
