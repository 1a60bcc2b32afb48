"""An instance that is several processes: a supervisor, and workers that carry the traffic.

``team`` is the supervisor's: to ``rsock_nf.daemon`` it is a tunnel like another.  ``worker`` is a worker as it sees it.
``process`` is what a worker does, ``channel`` how the two talk, ``merge`` how the answers of all become one.
Not here: what each worker's settings are (``rsock_nf.shares``), and what a worker carries (``rsock_nf.runtime``).
"""
