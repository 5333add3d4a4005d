"""Serving over time: requests, routers and schedulers on replicas of a deployment, step by step."""
