"""What results are compared with: the paper's baselines, and players that need no model."""
