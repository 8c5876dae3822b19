"""What went wrong: findings, incidents, and how good the data is."""
