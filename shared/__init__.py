"""What camera and hub agree on: topics, messages, rules of transfer and release, and the model runtime."""
