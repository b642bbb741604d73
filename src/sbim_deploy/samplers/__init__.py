"""Noise schedules, plans and the loop that runs them: takes callables, knows no MRI and no engine."""
