"""The independent reference: rational and interval arithmetic; imports nothing of ours."""
