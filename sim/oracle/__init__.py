"""The independent reference in rational and interval arithmetic; imports nothing of ours."""
