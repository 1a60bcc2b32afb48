"""``rsock-nf capture``: the tunnel's packets as a pcapng file, on request with their content in clear."""
