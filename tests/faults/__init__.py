"""Faults that are injected, and what came of them: the scorecard."""
