"""The state of an instance as metrics for Prometheus.

``names`` is what they are, ``clients`` counts over sessions, ``exposition`` writes the text by ``prometheus_client``,
``serve`` answers a scraper.  Nothing of this is imported by an instance without the key ``metrics``.
"""
