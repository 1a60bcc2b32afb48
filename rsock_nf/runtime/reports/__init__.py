"""What a running instance tells of itself: its state as JSON, and its log lines."""
