"""Machines as networks: which way traffic goes, what each link carries, and how long that takes."""
