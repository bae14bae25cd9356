"""Functional builders of the networks."""
