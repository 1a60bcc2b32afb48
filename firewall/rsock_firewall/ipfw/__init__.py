"""The backend for FreeBSD's ipfw.  ``backend`` is the one to import."""
