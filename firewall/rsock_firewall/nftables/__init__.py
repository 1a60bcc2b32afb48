"""The backend for Linux with nf_tables.  ``backend`` is the one to import; ``text`` needs no pyroute2."""
