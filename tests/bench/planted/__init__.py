"""What is planted for the bench of verify."""
