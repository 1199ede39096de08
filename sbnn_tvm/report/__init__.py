"""What each layer became, and why."""
