"""What happens inside a run: observers of `generate`, and what they tell."""
