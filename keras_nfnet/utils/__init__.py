"""What is not about networks."""
