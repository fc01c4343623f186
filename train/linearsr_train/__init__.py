"""The training pipeline of LinearSR; imports `linearsr` only."""
