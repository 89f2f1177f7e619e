"""The search by Optuna, and what it shows in optuna-dashboard."""
