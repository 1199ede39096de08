"""The report of a compilation: what each layer became, and why."""
