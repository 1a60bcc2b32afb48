"""The backend for Linux without nf_tables: legacy xtables.  ``backend`` is the one to import."""
