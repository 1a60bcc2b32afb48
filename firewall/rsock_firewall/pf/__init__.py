"""The backend for pf: FreeBSD, OpenBSD, macOS.  ``backend`` is the one to import."""
