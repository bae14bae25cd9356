"""What is not about networks: files and arguments."""
