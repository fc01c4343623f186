"""The command line of LinearSR."""
